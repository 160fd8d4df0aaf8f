"""The synchronous client of the command line. Standard library only, for a fast start."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from fusemld.api import views
from fusemld.model import errors
from fusemld.model.errors import UnreachableError

T = TypeVar("T")

TIMEOUT_S = 60.0
"""For an answer, and for a sign of life of a stream of changes (the daemon pings four times as often)."""


_KINDS: Mapping[str, type[errors.FusemldError]] = {
    "bad_request": errors.InvalidInputError,
    "not_found": errors.NotFoundError,
    "conflict": errors.ConflictError,
    "forbidden": errors.ForbiddenError,
    "unavailable": errors.UnavailableError,
    "cannot_start": errors.StartError,
}


class _Failure(msgspec.Struct):
    name: str = ""
    message: str = ""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One daemon. Every method raises the error of the family that the daemon answered with, with its text, and
    `UnreachableError` where there is no daemon or it goes away in the middle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, path: str, answer: type[T], **query: str | None) -> T:
        return self._answered("GET", path, answer, query)

    def post(
        self,
        path: str,
        answer: type[T],
        body: msgspec.Struct | None = None,
        *,
        timeout_s: float | None = TIMEOUT_S,
        **query: str | None,
    ) -> T:
        return self._answered("POST", path, answer, query, body, timeout_s)

    def send(self, method: str, path: str, body: msgspec.Struct | None = None, **query: str | None) -> None:
        """For what answers with nothing."""
        with self._request(method, path, query, body) as response:
            response.read()

    def logs(self, run: str, step: str | None, attempt: int | None, follow: bool) -> Iterator[bytes]:
        """What is there, as it comes."""
        query = _of_logs(step, attempt, follow)
        with self._request("GET", url("runs", run, "logs"), query, timeout_s=None) as response:
            yield from _chunks(response)

    def log_lines(self, run: str, step: str | None, attempt: int | None, follow: bool) -> Iterator[views.LogLine]:
        """The same line by line."""
        decoder = msgspec.json.Decoder(views.LogLine)
        query = _of_logs(step, attempt, follow)
        with self._request("GET", url("runs", run, "logs", "lines"), query, timeout_s=None) as response:
            yield from map(decoder.decode, _lines(response))

    def backup(self) -> Iterator[bytes]:
        """The content of a SQLite file; it is complete if nothing is raised."""
        with self._request("GET", "/backup", {}, timeout_s=None) as response:
            yield from _chunks(response)

    def changes(self, run: str | None) -> Iterator[views.RunView]:
        """The run (None: every unfinished one, and every one that ends) now and at every change; of a run at
        least once."""
        decoder = msgspec.json.Decoder(views.StreamItem)
        path = url("runs", run, "events") if run else "/events"
        with self._request("GET", path, {}) as response:
            told = False
            for line in _lines(response):
                item: views.StreamItem = decoder.decode(line)
                if isinstance(item, views.RunChanged):
                    told = True
                    yield item.run
            if run and not told:
                raise errors.FusemldError(f"cannot follow run {run}: the daemon says nothing about it")

    def _answered(
        self,
        method: str,
        path: str,
        answer: type[T],
        query: Mapping[str, str | None],
        body: msgspec.Struct | None = None,
        timeout_s: float | None = TIMEOUT_S,
    ) -> T:
        with self._request(method, path, query, body, timeout_s) as response:
            raw = response.read()
        try:
            return msgspec.json.decode(raw, type=answer)
        except msgspec.MsgspecError as error:
            raise errors.FusemldError(
                f"cannot understand the daemon at {self.path}: {error}; is it of another version?"
            ) from error

    @contextmanager
    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None],
        body: msgspec.Struct | None = None,
        timeout_s: float | None = TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        given = {name: value for name, value in query.items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if content is None else {"Content-Type": "application/json"}
        connection = _Connection(self.path, timeout_s)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise UnreachableError(_unreachable(self.path, error)) from error
            try:
                connection.request(method, target, content, headers)
                response = connection.getresponse()
                if response.status >= 400:
                    raise _error(response.status, response.read())
                yield response
            except (OSError, http.client.HTTPException) as error:
                cause = "it does not answer" if isinstance(error, TimeoutError) else "it went away"
                raise UnreachableError(f"lost the daemon at {self.path}: {cause}") from error
        finally:
            connection.close()


def url(*parts: str) -> str:
    """A path of these parts, each quoted."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """`read1` raises where the stream breaks off; reading by lines would take that for its end."""
    while chunk := response.read1(64 * 1024):
        yield chunk


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Those that are complete, without their ends."""
    rest = b""
    for chunk in _chunks(response):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines


def _of_logs(step: str | None, attempt: int | None, follow: bool) -> dict[str, str | None]:
    return {"step": step, "attempt": str(attempt) if attempt else None, "follow": "1" if follow else None}


def _unreachable(path: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"cannot reach the daemon at {path}: permission denied; ask for membership in the daemon's group"
    if path.exists() and not path.is_socket():
        return f"cannot reach the daemon at {path}: it is not a socket; name the daemon's with --socket"
    known = isinstance(error, FileNotFoundError | ConnectionRefusedError)
    cause = "it is not running" if known else error.strerror or str(error)
    remedy = "start it with `fusemld run`, or name its socket with --socket"
    return f"cannot reach the daemon at {path}: {cause}; {remedy}"


def _error(status: int, body: bytes) -> errors.FusemldError:
    try:
        failure = msgspec.json.decode(body, type=_Failure)
    except msgspec.MsgspecError:
        failure = _Failure()
    kind = _KINDS.get(failure.name, errors.FusemldError)
    return kind(failure.message or f"the daemon answered with HTTP status {status}")
