"""Pinning codesets: from a declaration and a ref to files that never change again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import msgspec
import structlog
from anyio.to_thread import run_sync

from fusemld.codesets import folders
from fusemld.codesets.cache import Cache, Copy
from fusemld.codesets.folders import Content, Listing
from fusemld.codesets.git import Address, Git, address, credentials_of
from fusemld.model.codeset import Codeset, PinnedCodeset
from fusemld.model.errors import ConflictError, FusemldError, InvalidInputError, NotFoundError
from fusemld.model.extension import ServiceAccess

log = structlog.get_logger(__name__)

RACY_S = 2.0
"""A file that changed this shortly before a look may change again without another time stamp."""


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """A folder as it was looked at last, and the content that it had."""

    entries: Listing
    content: Content


class Codesets:
    """Keeps its copies below `STATE/codesets`. `roots` are the folders below which `path` codesets and
    repositories of this host may be: whoever drops a file must not thereby read the host."""

    def __init__(
        self,
        state: Path,
        roots: Iterable[Path],
        *,
        limit_bytes: int = 2 * 1024**3,
        timeout_s: float = 600.0,
    ) -> None:
        self._cache = Cache(state / "codesets")
        self._roots = tuple(roots)
        self._limit_bytes = limit_bytes
        self._git = Git(self._cache.folder, timeout_s=timeout_s)
        self._locks: dict[str, anyio.Lock] = {}
        self._known: dict[Path, _Known] = {}

    async def pin(
        self, codeset: Codeset, ref: str | None = None, credentials: ServiceAccess | None = None
    ) -> PinnedCodeset:
        """Take the files as they are now (at `ref`, else at the codeset's own ref, else on the default branch).

        Raises NotFoundError (repository, ref, folder), ForbiddenError (credentials, a folder outside the roots),
        InvalidInputError (address, ref, size), ConflictError (never at rest), UnavailableError (try later).
        """
        what = f"codeset {codeset.key}"
        if codeset.path is not None:
            return await self._pin_folder(codeset, codeset.path, ref, what)
        where = self._address(codeset, what)
        access = credentials_of(credentials)
        with _named(what):
            commit = await self._git.commit_of(where, ref or codeset.ref, access)
        mirror = self._cache.mirrors / _mirror(where.url)
        async with self._locks.setdefault(where.url, anyio.Lock()):
            with _named(what):
                await self._git.fetch(mirror, where, commit, access)
            tree, size_bytes, submodules = await self._git.tree(mirror, where, commit)
            digest = f"git-{tree}"
            if size_bytes > self._limit_bytes:
                raise InvalidInputError(
                    f"cannot use {what}: it holds {size_bytes} bytes, more than the {self._limit_bytes} that the "
                    "setting codesets.limit_bytes allows"
                )
            if submodules:
                log.warning("codeset.submodules_left_out", codeset=codeset.key, submodules=list(submodules))
            if not self._cache.has(digest):
                target = self._cache.temporary()
                try:
                    await self._git.write_out(mirror, where, tree, target)
                    await run_sync(_finish, target, what)
                    self._cache.keep(target, digest)
                finally:
                    folders.remove(target)
        return PinnedCodeset(
            project=codeset.project,
            name=codeset.name,
            version=commit,
            url=where.url,
            digest=digest,
            size_bytes=size_bytes,
        )

    async def version(
        self, codeset: Codeset, ref: str | None = None, credentials: ServiceAccess | None = None
    ) -> str:
        """What `pin` would give as version, without keeping the files. Raises as `pin` does."""
        what = f"codeset {codeset.key}"
        if codeset.path is not None:
            _no_ref(ref or codeset.ref, what)
            root = folders.allowed(codeset.path, self._roots, what)
            content = await run_sync(self._content, root, abandon_on_cancel=True)
            return f"sha256:{content.digest}"
        where = self._address(codeset, what)
        return await self._git.commit_of(where, ref or codeset.ref, credentials_of(credentials))

    def refusal(self, codeset: Codeset) -> str:
        """Why it is refused whatever there is, empty where it is not: see the setting codesets.roots. Blocking."""
        try:
            path = address(codeset.url).path if codeset.url is not None else codeset.path
        except InvalidInputError:
            return ""  # which is said where it is read
        return "" if path is None else folders.refusal(path, self._roots)

    async def source(self, pinned: PinnedCodeset) -> Path:
        """The folder with the pinned files: read it, never write to it. It stays until `discard` is asked
        for. Raises NotFoundError if it is gone."""
        if not self._cache.has(pinned.digest):
            raise NotFoundError(
                f"cannot use codeset {pinned.project}/{pinned.name}: the copy of {pinned.version} is gone from "
                "the state folder; start a new run"
            )
        return self._cache.path(pinned.digest)

    async def copies(self) -> list[Copy]:
        """All that is kept on disk."""
        return await run_sync(lambda: list(self._cache.copies()))

    async def discard(self, copy: Copy, unused_since: float, *, dry_run: bool = False) -> bool:
        """Remove a copy that no run needs, unless somebody has asked for it since that time or within the last
        hour, or fetches into it now. Whether it is gone, or with `dry_run` would be."""
        fetching = next(
            (lock for url, lock in self._locks.items() if _mirror(url) == copy.path.name), anyio.Lock()
        )
        if fetching.locked():
            return False
        async with fetching:
            return await run_sync(partial(self._cache.discard, copy, unused_since, dry_run=dry_run))

    def _address(self, codeset: Codeset, what: str) -> Address:
        if codeset.url is None:
            raise InvalidInputError(f"cannot use {what}: it has neither url nor path")
        where = address(codeset.url)
        if where.path is not None:
            folders.allowed(where.path, self._roots, what)
        return where

    async def _pin_folder(self, codeset: Codeset, path: str, ref: str | None, what: str) -> PinnedCodeset:
        _no_ref(ref or codeset.ref, what)
        root = folders.allowed(path, self._roots, what)
        async with self._locks.setdefault(str(root), anyio.Lock()):
            content = await run_sync(self._keep, root, abandon_on_cancel=True)
        return PinnedCodeset(
            project=codeset.project,
            name=codeset.name,
            version=f"sha256:{content.digest}",
            url=path,
            digest=f"sha256-{content.digest}",
            size_bytes=content.size_bytes,
        )

    def _keep(self, root: Path) -> Content:
        """Copy a folder, unless it is as it was when it was copied last."""
        entries = folders.listing(root, self._limit_bytes)
        known = self._known.get(root)
        if known is not None and known.entries == entries and self._cache.has(f"sha256-{known.content.digest}"):
            return known.content
        target = self._cache.temporary()
        try:
            content, entries = folders.copied(root, target, self._limit_bytes)
            self._cache.keep(target, f"sha256-{content.digest}")
        finally:
            folders.remove(target)
        self._remember(root, entries, content)
        return content

    def _content(self, root: Path) -> Content:
        """The digest of a folder; its files are read only where the time stamps say that something is new."""
        for _ in range(folders.TRIES):
            entries = folders.listing(root, self._limit_bytes)
            known = self._known.get(root)
            if known is not None and known.entries == entries:
                return known.content
            try:
                content = folders.hashed(root, entries)
            except FileNotFoundError:
                continue
            if folders.listing(root, self._limit_bytes) == entries:
                self._remember(root, entries, content)
                return content
        raise ConflictError(f"cannot read {root}: its files keep changing; try again when they are at rest")

    def _remember(self, root: Path, entries: Listing, content: Content) -> None:
        newest_s = max((entry.ctime_ns for entry in entries), default=0) / 1e9
        if newest_s < time.time() - RACY_S:
            self._known[root] = _Known(entries=entries, content=content)
        else:
            self._known.pop(root, None)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """What is said of a repository's address is said of this."""
    try:
        yield
    except FusemldError as error:
        raise type(error)(f"cannot use {what}: {error}") from error


def _mirror(url: str) -> str:
    return f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.git"


def _no_ref(ref: str | None, what: str) -> None:
    if ref is not None:
        raise InvalidInputError(f"cannot use {what} at {ref!r}: a folder has no branches, tags or commits")


def _finish(target: Path, what: str) -> None:
    """Make the files of a checkout read-only, and see that none leads elsewhere."""
    for path in target.rglob("*"):
        if path.is_symlink():
            inside, link = str(path.relative_to(target)), str(path.readlink())
            if folders.leaves(inside, link):
                raise InvalidInputError(f"cannot use {what}: its link {inside} -> {link} leaves the repository")
        elif path.is_file():
            path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)
