"""doit: in the process, with its SQLite database. It writes its state once, at the end."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator

from doit.cmd_base import ModuleTaskLoader
from doit.doit_cmd import DoitMain


def spawn() -> None:
    subprocess.run(["true"], check=True)


def main(shape: str, count: int, folder: str) -> None:
    def task_step() -> Iterator[dict[str, object]]:
        for number in range(count):
            before = [f"step:{number - 1}"] if shape == "chain" and number else []
            yield {"name": str(number), "actions": [spawn], "task_dep": before}

    os.chdir(folder)
    config = {"backend": "sqlite3", "dep_file": "state.db", "reporter": "zero"}
    loader = ModuleTaskLoader({"task_step": task_step, "DOIT_CONFIG": config})
    started = time.perf_counter()
    if DoitMain(loader).run([]):
        sys.exit("doit failed")
    took_s = time.perf_counter() - started
    with sqlite3.connect("state.db") as connection:
        (recorded,) = connection.execute("SELECT count(*) FROM doit WHERE task_id LIKE 'step:%'").fetchone()
    assert recorded == count
    print(took_s)


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
