"""The objects of a collection as they are, kept up to date by one list and one watch that never end silently.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

import anyio
import msgspec
import structlog
from anyio.abc import TaskStatus

from fusemld.hooks.clusters import Json
from fusemld.kube.answers import ExpiredError
from fusemld.kube.client import KubeCluster
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import FusemldError, UnavailableError

OnChange = Callable[[Json | None, Json | None], None]
"""Called with what was known and what is: (None, new), (old, new) or (old, None)."""

_PAGE: Final = 500
_FIRST_BACKOFF_S: Final = 0.2
_LONGEST_BACKOFF_S: Final = 5.0
_SHORT_WATCH_S: Final = 0.5
_SETTLE_S: Final = 30.0
"""Nodes tell of themselves every 10 s."""
# Events have no bookmarks (the API server keeps no cache of them): so that silence always means that something is
# wrong, the server is asked to end every watch before it counts as silent.
_OF_SILENCE: Final = 0.75
_log = structlog.get_logger()


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    object: dict[str, Any]


class _ListMeta(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    resource_version: str
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct, frozen=True, kw_only=True):
    metadata: _ListMeta
    items: list[dict[str, Any]] | None = None


class BadEventError(UnavailableError):
    """the server sent an error in a watch, or something that cannot be understood"""


class Reflector:
    """The objects of one collection, by name.

    `on_change` is called synchronously for every difference, in the order in which the server tells of them, also
    for those that a new list finds; an object replaced by another one of its name is told as gone, then as new.
    `metadata.managedFields` is left out of the objects.
    """

    def __init__(
        self,
        cluster: KubeCluster,
        path: str,
        params: Mapping[str, str],
        on_change: OnChange,
        *,
        silence_s: float = 90.0,
        relist_s: float = 600.0,
        settle_s: float = _SETTLE_S,
        backoff_from_s: float = _FIRST_BACKOFF_S,
    ) -> None:
        self.trouble = ""
        """What is wrong right now, empty while all is well."""
        self.is_connected = False
        self._cluster = cluster
        self._path = path
        self._params = dict(params)
        self._on_change = on_change
        self._silence_s = silence_s
        self._relist_s = relist_s
        self._settle_s = settle_s
        self._backoff_from_s = backoff_from_s
        self._objects: dict[str, Json] = {}
        self._version = ""
        self._must_list = True
        self._is_paged = True
        self._relist_at = 0.0
        self._was_open = False
        self._failures = 0
        self._away_since: float | None = None
        self._steady_at = 0.0
        self._heard_at: float | None = None
        self._decode_event = msgspec.json.Decoder(_Event).decode
        self._decode_list = msgspec.json.Decoder(_List).decode
        self._log = _log.bind(cluster=cluster.name, path=path)

    @property
    def objects(self) -> Mapping[str, Json]:
        return MappingProxyType(self._objects)

    def age_s(self) -> float:
        """Since the last word from the server; infinite before the first."""
        return float("inf") if self._heard_at is None else anyio.current_time() - self._heard_at

    @property
    def is_steady(self) -> bool:
        """Whether what is known is no older than it can be: not while the server is away, nor until those who tell
        it of the objects have had as long again (or `settle_s`) to do so."""
        return self._away_since is None and anyio.current_time() >= self._steady_at

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; ready after the first complete list.

        Before that, errors that will not pass by themselves (`ForbiddenError`, `NotFoundError`...) are raised;
        later they are `trouble`. `on_change` must not raise errors of our family: they would pass for those of
        the server.
        """
        is_ready = False
        while True:
            try:
                if self._must_list:
                    await self._list()
                    if not is_ready:
                        is_ready = True
                        task_status.started()
                await self._watch()
            except FusemldError as error:
                if not is_ready and not isinstance(error, UnavailableError | ExpiredError):
                    raise
                # What was lost in the middle goes on from its version; everything else begins with a new list.
                self._must_list = not (self._was_open and type(error) is UnavailableError)
                self._lose_sight(str(error))
                tell = self._log.info if isinstance(error, ExpiredError) else self._log.warning
                tell("watch.failed", error=self.trouble, failures=self._failures)
            if self._failures:
                longest_s = backoff_s(self._failures, self._backoff_from_s, _LONGEST_BACKOFF_S)
                await anyio.sleep(longest_s * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing

    async def _list(self) -> None:
        self._was_open = False
        listed: dict[str, Json] = {}
        params = dict(self._params)
        if self._is_paged:
            params["limit"] = str(_PAGE)
        while True:
            try:
                page = self._page(await self._cluster.read(self._path, params))
            except ExpiredError:
                self._is_paged = False  # the pages came too slowly for what the server remembers: all at once
                raise
            self._heard_at = anyio.current_time()
            for item in page.items or ():
                if (name := _name(item)) is None:
                    self._log.error("watch.bad_object", kind="listed")
                    continue
                listed[name] = item
            if not page.metadata.continue_:
                break
            params["continue"] = page.metadata.continue_
        self._is_paged = True
        self._version = page.metadata.resource_version
        self._must_list = False
        self._relist_at = anyio.current_time() + self._relist_s * random.uniform(0.8, 1.0)  # noqa: S311 - as above
        for old, new in differences(self._objects, listed):
            self._tell(old, new)

    def _page(self, body: bytes) -> _List:
        try:
            return self._decode_list(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError(f"cannot understand the list of {self._path}: {error}") from error

    async def _watch(self) -> None:
        """One watch, until the server ends it or the time for a new list has come."""
        began_at = anyio.current_time()
        left_s = self._relist_at - began_at
        params = {
            **self._params,
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(math.ceil(min(left_s, self._silence_s * _OF_SILENCE)), 1)),
        }
        heard = 0
        self._was_open = False
        with anyio.move_on_after(left_s):
            try:
                async with self._cluster.watch(self._path, params=params, silence_s=self._silence_s) as batches:
                    self.is_connected = self._was_open = True
                    self.trouble = ""
                    self._heard_at = anyio.current_time()
                    if self._away_since is not None:
                        self._steady_at = self._heard_at + min(self._heard_at - self._away_since, self._settle_s)
                        self._away_since = None
                    async for lines in batches:
                        self._heard_at = anyio.current_time()
                        for line in lines:
                            self._take(line)
                        heard += len(lines)
                        self._failures = 0
            finally:
                self.is_connected = False
        now = anyio.current_time()
        self._must_list = now >= self._relist_at
        if heard or now - began_at >= _SHORT_WATCH_S:
            self._failures = 0
        elif not self._must_list:
            self._lose_sight(f"cannot watch {self._path}: the server ends the watch at once")

    def _lose_sight(self, trouble: str) -> None:
        self._failures += 1
        self.trouble = trouble
        if self._away_since is None:
            self._away_since = anyio.current_time()

    def _take(self, line: bytes) -> None:
        try:
            event = self._decode_event(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadEventError(f"cannot understand an event of {self._path}: {error}") from error
        if event.type == "ERROR":
            raise self._error(event.object)
        new, version = event.object, _version(event.object)
        if version is None:
            raise BadEventError(f"cannot understand an event of {self._path}: it has no version")
        if event.type == "BOOKMARK":
            self._version = version
            return
        name = _name(new)
        if name is None:
            raise BadEventError(f"cannot understand an event of {self._path}: its object has no name")
        old = self._objects.get(name)
        match event.type:
            case "ADDED" | "MODIFIED":
                for change in difference(old, new):
                    self._tell(*change)
            case "DELETED":
                if old is not None:
                    self._tell(new, None)
            case _:
                raise BadEventError(f"cannot understand an event of {self._path}: its type is {event.type!r}")
        self._version = version

    def _error(self, status: Json) -> FusemldError:
        said = str(status.get("message") or "the server sent an error without words")
        if status.get("code") == HTTPStatus.GONE:
            return ExpiredError(f"cannot watch {self._path}: {said}")
        return BadEventError(f"cannot watch {self._path}: {said}")

    def _tell(self, old: Json | None, new: Json | None) -> None:
        if new is not None:
            new["metadata"].pop("managedFields", None)
            self._objects[new["metadata"]["name"]] = new
        elif old is not None:
            old["metadata"].pop("managedFields", None)
            self._objects.pop(old["metadata"]["name"], None)
        self._on_change(old, new)


def difference(old: Json | None, new: Json) -> Iterator[tuple[Json | None, Json | None]]:
    """What has happened to an object of one name that is there now: nothing, one change, or its replacement."""
    if old is None:
        yield None, new
    elif old["metadata"].get("uid") != new["metadata"].get("uid"):
        yield old, None
        yield None, new
    elif old["metadata"].get("resourceVersion") != new["metadata"].get("resourceVersion"):
        yield old, new


def differences(
    known: Mapping[str, Json], listed: Mapping[str, Json]
) -> tuple[tuple[Json | None, Json | None], ...]:
    """What has happened between two lists by name: first what has gone, then the rest in the order of the list."""
    gone = [(old, None) for name, old in known.items() if name not in listed]
    return (*gone, *(change for name, new in listed.items() for change in difference(known.get(name), new)))


def _name(item: Json) -> str | None:
    metadata = item.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) and name else None


def _version(item: Json) -> str | None:
    metadata = item.get("metadata")
    version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
    return version if isinstance(version, str) and version else None
