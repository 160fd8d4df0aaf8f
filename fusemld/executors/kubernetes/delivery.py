"""Codesets on their way into the cluster: packed once, created once, removed when nobody uses them any more."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import anyio
import anyio.to_thread
import structlog

from fusemld.executors.kubernetes.bundles import Bundle, Entry, bundle, config_maps, pack
from fusemld.executors.kubernetes.names import CODESET, codesets_selector
from fusemld.executors.kubernetes.refusals import creating
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import MountedCodeset
from fusemld.model.errors import ConflictError, StartError, UnavailableError, may_pass

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

UNUSED_S = 3600.0
"""How long a codeset that no attempt uses stays in the cluster: the next run often wants it again."""
_MOST_NAMED = 50
"""In a label selector, which travels in an URL."""


class Cluster(Protocol):
    """What is needed of `fusemld.kube.client.KubeCluster`."""

    namespace: str
    instance: str

    async def create(self, path: str, body: Json) -> Json: ...

    async def delete(self, path: str) -> bool: ...

    async def delete_collection(self, path: str, selector: str) -> int: ...


class _Packed:
    """`bundle` is None where the codeset is too large; `is_there`: its ConfigMaps have been created."""

    __slots__ = ("bundle", "is_packed", "is_there", "lock")

    def __init__(self) -> None:
        self.bundle: Bundle | None = None
        self.is_packed = False
        self.is_there = False
        self.lock = anyio.Lock(fast_acquire=True)


class Delivery:
    """Attempts hold what they use from `deliver`, or `hold` after a restart, until `release`; what nobody holds is
    swept."""

    def __init__(self, cluster: Cluster, limit_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._path = f"/api/v1/namespaces/{cluster.namespace}/configmaps"
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._known: dict[str, _Packed] = {}
        self._held: Counter[str] = Counter()
        self._unused: dict[str, float] = {}
        """ConfigMaps that nobody holds, and since when."""
        self._sweeping = anyio.Lock(fast_acquire=True)

    async def deliver(self, codesets: Sequence[MountedCodeset]) -> Mapping[str, Bundle]:
        """The bundles that are in the cluster now, by the digests of their codesets; too large ones are left out.
        What is in the answer is held. Raises `StartError`, `UnavailableError`; nothing is held then."""
        found: dict[str, Bundle] = {}
        try:
            for codeset in codesets:
                if codeset.digest not in found:
                    packed = self._known.setdefault(codeset.digest, _Packed())
                    async with packed.lock:
                        if (made := await self._deliver(codeset, packed)) is not None:
                            found[codeset.digest] = made
                            self.hold(made.names)
        except BaseException:
            for made in found.values():
                self.release(made.names)
            raise
        return found

    def hold(self, names: Iterable[str]) -> None:
        """ConfigMaps that an attempt uses."""
        for name in names:
            self._held[name] += 1
            self._unused.pop(name, None)

    def release(self, names: Iterable[str]) -> None:
        for name in names:
            self._held[name] -= 1
            if self._held[name] <= 0:
                del self._held[name]
                self._unused[name] = self._clock()

    def doubt(self) -> None:
        """Somebody may have removed ConfigMaps. All are created again when they are needed next, which costs a
        refusal (409) each where they are there."""
        for packed in self._known.values():
            packed.is_there = False

    async def sweep_unknown(self) -> None:
        """Remove what an earlier daemon left and nobody holds; nothing where a selector cannot name what is."""
        async with self._sweeping:
            held = {name.rpartition("-")[0] for name in self._held}
            if len(held) > _MOST_NAMED:
                _log.warning(
                    "codesets.not_swept",
                    error=f"{len(held)} codesets are in use, and one look names only "
                    f"{_MOST_NAMED}; the next start of the daemon tries again",
                )
                return
            selector = codesets_selector(self._cluster.instance)
            if held:
                selector += f",{CODESET} notin ({','.join(sorted(held))})"
            count = await self._cluster.delete_collection(self._path, selector)
            self.doubt()
            if count:
                _log.info("codesets.swept", config_maps=count)

    async def sweep_unused(self) -> None:
        """Remove what nobody has held for `UNUSED_S`. To be called now and then."""
        due = {name for name, since in self._unused.items() if self._clock() - since >= UNUSED_S}
        for digest, packed in list(self._known.items()):
            if packed.bundle is not None and due.intersection(packed.bundle.names):
                async with packed.lock:
                    await self._remove(digest, packed)
        async with self._sweeping:
            for name in due.intersection(self._unused) - self._names():
                await self._delete(name)

    async def _remove(self, digest: str, packed: _Packed) -> None:
        names = packed.bundle.names if packed.bundle is not None else ()
        if any(name in self._held for name in names):
            return
        packed.is_there = False
        for name in names:
            await self._delete(name)
        self._known.pop(digest, None)

    async def _delete(self, name: str) -> None:
        await self._cluster.delete(f"{self._path}/{name}")
        self._unused.pop(name, None)

    def _names(self) -> set[str]:
        """Of the ConfigMaps that this daemon has created."""
        bundles = (packed.bundle for packed in self._known.values())
        return {name for made in bundles if made is not None for name in made.names}

    async def _deliver(self, codeset: MountedCodeset, packed: _Packed) -> Bundle | None:
        if packed.is_there or (packed.is_packed and packed.bundle is None):
            return packed.bundle
        data = await anyio.to_thread.run_sync(_pack, codeset.source, self._limit_bytes)
        packed.is_packed = True
        if data is None:
            return None
        packed.bundle = bundle(data, self._cluster.instance)
        self._unused.update((name, self._clock()) for name in packed.bundle.names if name not in self._held)
        async with self._sweeping:
            for body in config_maps(data, self._cluster.instance, self._cluster.namespace):
                try:
                    with creating(f"codeset {codeset.project}/{codeset.name}"):
                        await self._cluster.create(self._path, body)
                except ConflictError:
                    continue
        packed.is_there = True
        return packed.bundle


def _pack(source: Path, limit_bytes: int) -> bytes | None:
    try:
        return pack(entries(source), limit_bytes)
    except OSError as error:
        problem = f"cannot read the codeset at {source}: {error}"
        raise (UnavailableError(problem) if may_pass(error) else StartError(problem)) from error


def entries(folder: Path, below: str = "") -> Iterator[Entry]:
    """Everything in the folder in the order of names; what is neither a file, a link nor a folder is left out."""
    with os.scandir(folder) as found:
        listed = sorted(found, key=lambda entry: os.fsencode(entry.name))
    for entry in listed:
        path = f"{below}{entry.name}"
        if entry.is_symlink():
            yield Entry(path=path, target=str(Path(entry.path).readlink()))
        elif entry.is_dir():
            yield Entry(path=path)
            yield from entries(Path(entry.path), f"{path}/")
        elif entry.is_file():
            is_executable = bool(entry.stat().st_mode & 0o100)
            yield Entry(path=path, content=Path(entry.path), is_executable=is_executable)
