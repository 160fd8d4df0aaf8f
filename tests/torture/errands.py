"""What people do beside the runs: delete what is served, change a codeset, ask for copies of the database."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from fusemld.api import views
from fusemld.api.client import Client, url
from fusemld.model.errors import FusemldError
from tests.acceptance.daemon import Daemon
from tests.torture.verdict import damage

_TICK_S = 0.1
_CODESET_EVERY_S = 1.0
_BACKUP_EVERY_S = (5.0, 20.0)


class Errands:
    """Done one after the other in a thread of their own: who waits for a stopped daemon holds up nobody."""

    def __init__(self, daemon: Daemon, codeset: Path, chance: random.Random) -> None:
        self.backups = 0
        self.deleted = 0
        self.problems: list[str] = []
        self._client = Client(daemon.socket)
        self._base = daemon.base
        self._codeset = codeset
        self._chance = chance
        self._codeset_at = 0.0
        self._backup_at = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="errands", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def back_up_now(self) -> None:
        self._backup_at = 0.0

    def end(self) -> None:
        """Returns once the one under way is over: nobody may be stopped any more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_TICK_S):
            now = time.monotonic()
            try:
                if now >= self._codeset_at:
                    self._codeset_at = now + _CODESET_EVERY_S
                    self._change_codeset()
                self._delete_applications()
                if now >= self._backup_at:
                    self._backup_at = now + self._chance.uniform(
                        *_BACKUP_EVERY_S
                    )  # or sooner, if asked for meanwhile
                    self._back_up()
            except (FusemldError, OSError):
                continue  # it is killed, or stopped, or something is full: the next time

    def _change_codeset(self) -> None:
        """Its next run needs a new copy."""
        changed = self._base / "version"
        changed.write_text(str(time.monotonic_ns()))
        changed.replace(self._codeset / "version")

    def _delete_applications(self) -> None:
        """Of runs that are over."""
        for application in self._client.get("/applications", list[views.ApplicationView]):
            run = self._client.get(url("runs", application.run), views.RunView)
            if run.finished_at is not None:
                self._client.send("DELETE", url("applications", application.name))
                self.deleted += 1

    def _back_up(self) -> None:
        copy = self._base / "copy.db"
        with copy.open("wb") as file:
            file.writelines(self._client.backup())
        if found := damage(copy):
            self.problems.append(f"a backup is damaged: {found}")
        copy.unlink()
        self.backups += 1
