"""The poller with codesets whose versions the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import msgspec

from fusemld.codesets.polling import Poller
from fusemld.model.codeset import Codeset, CodesetReference
from fusemld.model.errors import UnavailableError


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    reference: CodesetReference
    codeset: Codeset


class Forge:
    def __init__(self, *names: str) -> None:
        self.watched = [
            Watched(reference=CodesetReference(name=name, ref="main"), codeset=Codeset(name=name, url=f"/{name}"))
            for name in names
        ]
        self.versions: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.seen: list[tuple[str, str, str]] = []
        self._news = anyio.Event()

    async def version(self, codeset: Codeset, ref: str | None) -> str:
        self.asked.append((codeset.name, ref))
        self._tell()
        version = self.versions.get(codeset.name)
        if version is None:
            raise UnavailableError(f"cannot read {codeset.name}: no route")
        if version == "hangs":
            await anyio.sleep_forever()
        return version

    async def on_seen(self, watched: Watched, version: str, problem: str) -> None:
        self.seen.append((watched.codeset.name, version, problem))
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def until_seen(self, number: int) -> None:
        with anyio.fail_after(10):
            while len(self.seen) < number:
                await self._news.wait()

    async def until_asked(self, number: int) -> None:
        with anyio.fail_after(10):
            goal = len(self.asked) + number
            while len(self.asked) < goal:
                await self._news.wait()


@asynccontextmanager
async def polling(forge: Forge) -> AsyncIterator[None]:
    poller = Poller(0.01, lambda: forge.watched, forge.version, forge.on_seen)
    async with anyio.create_task_group() as group:
        group.start_soon(poller.run)
        try:
            yield
        finally:
            group.cancel_scope.cancel()


async def test_a_version_is_told_once_until_it_changes() -> None:
    forge = Forge("digits")
    forge.versions["digits"] = "c1"

    async with polling(forge):
        await forge.until_seen(1)
        await forge.until_asked(5)
        forge.versions["digits"] = "c2"
        await forge.until_seen(2)

    assert forge.seen == [("digits", "c1", ""), ("digits", "c2", "")]
    assert forge.asked[0] == ("digits", "main")


async def test_a_codeset_that_fails_is_told_once_and_stops_nobody() -> None:
    forge = Forge("broken", "digits")
    forge.versions["digits"] = "c1"

    async with polling(forge):
        await forge.until_seen(2)
        await forge.until_asked(6)
        forge.versions["broken"] = "b1"
        await forge.until_seen(3)

    assert sorted(forge.seen[:2]) == [("broken", "", "cannot read broken: no route"), ("digits", "c1", "")]
    assert forge.seen[2:] == [("broken", "b1", "")]


async def test_a_codeset_that_hangs_stops_nobody() -> None:
    forge = Forge("hangs", "digits")
    forge.versions |= {"hangs": "hangs", "digits": "c1"}

    async with polling(forge):
        await forge.until_seen(1)
        forge.versions["digits"] = "c2"
        await forge.until_seen(2)

    assert forge.asked.count(("hangs", "main")) == 1


async def test_a_codeset_that_is_watched_again_is_told_again() -> None:
    forge = Forge("digits", "other")
    forge.versions |= {"digits": "c1", "other": "o1"}

    async with polling(forge):
        await forge.until_seen(2)
        watched, forge.watched = forge.watched, forge.watched[1:]
        await forge.until_asked(5)
        forge.watched = watched
        await forge.until_seen(3)

    assert forge.seen[2] == ("digits", "c1", "")
