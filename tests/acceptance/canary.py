"""Looks for a secret wherever a daemon might show it: files, processes, every answer and every command."""

from __future__ import annotations

import base64
import http.client
import json
import shlex
import socket
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from fusemld.api.routes import OPENAPI_PATH, ROUTES
from fusemld.executors.process.spawning import MARKER
from tests.acceptance.daemon import Daemon
from tests.cli.commands import commands, formats, invoke

EVENTS = "/events"
QUIET_S = 0.5
"""After which nothing is expected to happen any more."""

LOG_QUERIES = ("", "?step={step}&attempt=1", "?follow=1")
NAMES = {"/workflows": "uses", "/codesets": "code", "/applications": "none"}
"""What is asked about, by the beginning of the path."""
NOT_THERE = ("/applications/none",)

LOOKING = {
    "fuseml runs": "",
    "fuseml get": "{run}",
    "fuseml watch": "{run}",
    "fuseml logs": "{run}",
    "fuseml why": "{run}",
    "fuseml files": "",
    "fuseml lint": "{folder}",
    "fuseml schema": "",
    "fuseml workflow get": "{workflow}",
    "fuseml workflow list": "",
    "fuseml codeset get": "code",
    "fuseml codeset list": "",
    "fuseml application get": "none",
    "fuseml application list": "",
    "fuseml extension check": "vault",
    "fuseml extension explain": "{workflow}",
    "fuseml extension get": "vault",
    "fuseml extension list": "",
    "fuseml gc": "--dry-run",
    "fuseml backup": "{copy} --force",
    "fuseml services": "",
    "fuseml version": "",
    "fuseml completion": "bash",
    "fusemld check": "",
    "fusemld cleanup": "--dry-run",
    "fusemld config": "",
}
"""Every command that changes nothing but a file of its own, and what it is asked about."""

CHANGING = {
    "fuseml run",
    "fuseml cancel",
    "fuseml retry",
    "fuseml application delete",
    "fusemld run",
    "fusemld stop",
    "fusemld restore",
}


def needles(canary: str) -> set[bytes]:
    """What must not be found: the canary, what is telling of its lines, and how common libraries write them."""
    forms = {canary.strip(), *(line for line in canary.splitlines() if len(line) >= 4)}
    forms |= {json.dumps(form)[1:-1] for form in forms} | {
        json.dumps(form, ensure_ascii=False)[1:-1] for form in forms
    }
    forms |= {repr(form)[1:-1] for form in forms} | {shlex.quote(form) for form in forms}
    forms |= {urllib.parse.quote(form, safe="") for form in forms}
    found = {form.encode() for form in forms}
    if len(canary) > 5:
        found |= {base64.b64encode(prefix + canary.encode())[8:-4] for prefix in (b"user:", b"123456", b"1234")}
    return found


def leaks(data: bytes, canary: str) -> list[bytes]:
    return [needle for needle in needles(canary) if needle in data]


class Watch:
    """Looks for one canary wherever it must not be."""

    def __init__(self, daemon: Daemon, canary: str, workflow: str = "uses") -> None:
        self.daemon = daemon
        self.canary = canary
        self.record = daemon.folder / "vault.yaml"
        self.names = NAMES | {"/workflows": workflow}
        self.heard = bytearray()
        (daemon.codesets / "code").mkdir()
        daemon.drop("code.yaml", f"name: code\npath: {daemon.codesets / 'code'}\n")

    def assert_nowhere(self, *runs: str) -> None:
        """Everywhere, also where only ended runs can be looked at. What their steps have written goes a moment
        after their end."""
        attempts = self.daemon.state / "attempts"
        self.daemon.wait_for(lambda: not [*attempts.glob("*/")], 10, "the folders of ended attempts to go")
        self.daemon.wait_for(lambda: self.daemon.json("codeset", "list"), 10, "the codeset")
        heard = [(EVENTS, bytes(self.heard))]
        self._assert_clean(self._files(), self._processes(), self._api(runs), self._cli(runs), heard)

    def assert_nowhere_now(self, run: str) -> None:
        """While the run is under way."""
        paths = ("/runs", f"/runs/{run}", f"/runs/{run}/logs", f"/runs/{run}/why", EVENTS)
        answers = ((path, self._get(path, is_endless=path == EVENTS)[1]) for path in paths)
        self._assert_clean(self._files(), self._processes(), answers)
        assert run.encode() in self.heard

    def _assert_clean(self, *places: Iterable[tuple[str, bytes]]) -> None:
        found = {place: leaks(data, self.canary) for group in places for place, data in group}
        leaking = {place: hits for place, hits in found.items() if hits}
        assert not leaking, f"the canary is in {leaking}"

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """Every byte of every file: the database with its -wal and -shm, journals, logs, folders of attempts."""
        names = set()
        for path in self.daemon.base.rglob("*"):
            try:
                if path.is_file() and not path.is_symlink() and path != self.record:
                    names.add(path.name)
                    yield str(path), str(path).encode() + path.read_bytes()
            except FileNotFoundError:
                continue
        assert {"fusemld.db", "journal", "keeper.log", "daemon.log"} <= names

    def _processes(self) -> Iterator[tuple[str, bytes]]:
        """Command lines of all, environments of all but the step's."""
        for process in psutil.process_iter():
            folder = Path("/proc", str(process.pid))
            try:
                yield f"{folder}/cmdline", (folder / "cmdline").read_bytes()
                environ = (folder / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARKER}=".encode() not in environ:
                yield f"{folder}/environ", environ

    def _api(self, runs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for path in {OPENAPI_PATH, *(path for run in runs for path in self._paths(run))}:
            status, data = self._get(path, is_endless=path == EVENTS)
            assert status == (404 if path in NOT_THERE else 200), (path, status, data)
            yield f"GET {path}", data

    def _paths(self, run: str) -> Iterator[str]:
        step = self.daemon.json("get", run)["steps"][0]["name"]
        for route in ROUTES:
            if route.method == "GET":
                for query in LOG_QUERIES if "attempt" in route.query else ("",):
                    yield filled(route.path, self.names, run) + query.format(step=step)

    def _get(self, path: str, *, is_endless: bool = False) -> tuple[int, bytes]:
        with self._asked(path) as (connection, response):
            if not is_endless:
                return response.status, response.read()
            connection.settimeout(QUIET_S)
            with suppress(TimeoutError):
                while data := response.read1():
                    self.heard += data
            return response.status, bytes(self.heard)

    @contextmanager
    def _asked(self, path: str) -> Iterator[tuple[socket.socket, http.client.HTTPResponse]]:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(self.daemon.socket))
        try:
            connection.request("GET", path)
            yield connection.sock, connection.getresponse()
        finally:
            connection.close()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """To every change of every run, until all is quiet at the end."""
        with self._asked(EVENTS) as (connection, response):
            yield
            connection.settimeout(QUIET_S)
            with suppress(TimeoutError):
                while data := response.read1():
                    self.heard += data
        assert self.heard

    def _cli(self, runs: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        copy = self.daemon.base / "copy.db"
        names = {"folder": self.daemon.folder, "copy": copy, "workflow": self.names["/workflows"]}
        lines = {
            (*typed.split(), *LOOKING[typed].format(run=run, **names).split(), *form)
            for typed, command in commands().items()
            if typed not in CHANGING
            for form in ((), *(("-o", name) for name in formats(command) if name == "json"))
            for run in runs
        }
        for tool, *arguments in lines:
            done = invoke(tool, arguments, self.daemon.environment)
            yield " ".join((tool, *arguments)), f"{done.output}{done.exception}".encode()
        yield str(copy), copy.read_bytes()


def filled(path: str, names: Mapping[str, str], run: str) -> str:
    """A path of the table with names that exist, but for applications. Raises `KeyError` for what has no name."""
    name = next((name for start, name in names.items() if path.startswith(start)), "")
    return path.format(run=run, id="vault", name=name, project="default")
