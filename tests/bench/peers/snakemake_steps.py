"""Snakemake: its command, in the process, two cores. A job is recorded by its output file and its metadata."""

import contextlib
import io
import os
import sys
import time
from pathlib import Path

RULE = """
rule step{number}:
    input: {before}
    output: touch("out/{number}")
    shell: "true"
"""


def main(shape: str, count: int, folder: str) -> None:
    os.chdir(folder)
    wanted = ", ".join(f'"out/{number}"' for number in range(count))
    rules = [f"rule all:\n    input: {wanted}\n"]
    for number in range(count):
        before = f'"out/{number - 1}"' if shape == "chain" and number else ""
        rules.append(RULE.format(number=number, before=before))
    Path("Snakefile").write_text("".join(rules))
    from snakemake.cli import main as command

    said = io.StringIO()
    started = time.perf_counter()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            command(["--cores", "2", "--quiet", "all"])
            failure: object = None
        except SystemExit as ended:
            failure = ended.code
    took_s = time.perf_counter() - started
    if failure:
        sys.exit(f"snakemake failed: {said.getvalue()}")
    assert len(list(Path("out").iterdir())) == count
    print(took_s)


main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
