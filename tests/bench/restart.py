"""How long a restart takes with many documents in the folder: `python -m tests.bench.restart [COUNT]`.

Every document is a run request whose run has not ended. The first restart comes before the files were at rest.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from fusemld.api import views
from fusemld.api.client import Client
from tests.acceptance.daemon import Daemon, daemon_of

WORKFLOW = "name: w\ninputs: [{name: number}]\nsteps: [{name: s, image: host, command: [sleep, '1000']}]\n"
ALL_READ_S = 20.0
"""More than two looks at the folder: by then every file was read again at rest."""


def main(count: int) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended on the way
    with tempfile.TemporaryDirectory(prefix="fusemld-bench-") as folder, daemon_of(Path(folder)) as daemon:
        daemon.environment["FUSEMLD_LIMITS_STEPS"] = "1"
        daemon.drop("w.yaml", WORKFLOW)
        for number in range(count):
            (daemon.folder / f"{number}.yaml").write_text(f"workflow: w\ninputs: {{number: '{number}'}}\n")
        print(f"first start with {count} documents: {ready(daemon)}")
        daemon.wait_for(lambda: active(daemon) == count, 300, "all runs")
        for _ in range(3):
            daemon.kill()
            print(f"restart to ready: {ready(daemon)}")
            time.sleep(ALL_READ_S)


def active(daemon: Daemon) -> int:
    return Client(daemon.socket).get("/health", views.HealthView).runs_active


def ready(daemon: Daemon) -> str:
    daemon.log.touch()
    seen = daemon.log.stat().st_size
    started = time.perf_counter()
    process = daemon.spawn()
    with daemon.log.open("rb") as journal:
        journal.seek(seen)
        text = b""
        while b"daemon.ready" not in text:
            assert process.poll() is None, f"the daemon ended:\n{daemon.journal()[-3000:]}"
            text = text[-100:] + journal.read()
            time.sleep(0.005)
    took = time.perf_counter() - started
    times = psutil.Process(process.pid).cpu_times()
    return f"{took:.2f} s, {times.user + times.system:.2f} s of processor time"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
