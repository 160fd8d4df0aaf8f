"""One entry of the database that cannot be read: the daemon starts, and everything else goes on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from fusemld.api import views
from fusemld.api.client import Client
from tests.acceptance.daemon import Daemon, processes_of_steps

pytestmark = pytest.mark.acceptance

DAMAGE = {
    "step": "UPDATE steps SET state = 'paused' WHERE run = :run",
    "run": "UPDATE run_details SET data = '{' WHERE run = :run",
    "document": "UPDATE documents SET data = '{' WHERE key = 'workflow/bad'",
}
SUSPECT = {"step": "steps", "run": "run_details", "document": "documents"}


def rows(daemon: Daemon, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(daemon.state / "fusemld.db")) as connection:
        return sorted(connection.execute(f"SELECT * FROM {table}"))


def restore(daemon: Daemon, table: str, before: list[tuple[object, ...]]) -> None:
    marks = ",".join("?" * len(before[0]))
    with closing(sqlite3.connect(daemon.state / "fusemld.db")) as connection, connection:
        connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", before)


def workflow(name: str, ledger: Path, gate: Path) -> str:
    wait = f"until test -e {gate}; do sleep 0.05; done"
    script = f"echo {name} began >> {ledger}; {wait}; echo {name} ended >> {ledger}"
    return f"name: {name}\nsteps: [{{name: only, image: host, command: [sh, -c, '{script}']}}]\n"


@pytest.mark.parametrize("what", DAMAGE)
def test_what_cannot_be_read_is_set_aside_and_goes_on_once_it_can_be(daemon: Daemon, what: str) -> None:
    ledger, gate, table = daemon.base / "ledger", daemon.base / "gate", SUSPECT[what]
    daemon.start()
    for name in ("bad", "good"):
        daemon.drop(f"{name}.yaml", workflow(name, ledger, gate))
    bad, good = daemon.run_of("bad.yaml"), daemon.run_of("good.yaml")
    for run in (bad, good):
        daemon.in_state(run, "only", "running")
    daemon.kill()
    before = [row for row in rows(daemon, table) if "bad" in str(row[0])]
    with closing(sqlite3.connect(daemon.state / "fusemld.db")) as connection, connection:
        assert connection.execute(DAMAGE[what], {"run": bad}).rowcount == 1
    damaged = [row for row in rows(daemon, table) if "bad" in str(row[0])]

    daemon.start()
    health = Client(daemon.socket).get("/health", views.HealthView)
    listed = {run["id"] for run in daemon.json("runs")}
    gate.touch()
    daemon.finished(good)
    daemon.wait_for(lambda: not processes_of_steps(daemon), 20, "the steps to end")
    after = [row for row in rows(daemon, table) if "bad" in str(row[0])]
    daemon.kill()
    restore(daemon, table, before)
    daemon.start()
    ended = daemon.finished(bad)

    told = [part.message for part in health.components if not part.ok]
    assert len(told) == 1
    assert f"of the table {table}" in told[0]
    assert listed == {bad, good}
    assert after == damaged
    assert ended["state"] == "succeeded"
    assert sorted(ledger.read_text().splitlines()) == ["bad began", "bad ended", "good began", "good ended"]
