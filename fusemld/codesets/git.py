"""Git repositories through the git program: what a ref stands for, fetching it, and writing its files out.

Credentials reach git through the environment of an askpass script and, for ssh, a key file of mode 0600; never
through the command line or an address. The configuration and credential helpers of the daemon's user do not count:
whoever drops a file must not act with the daemon's own passwords. Submodules stay empty folders, and large files
in LFS stay pointers.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import secrets
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio.to_thread import run_sync

from fusemld.codesets.folders import remove
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import (
    ForbiddenError,
    FusemldError,
    InvalidInputError,
    NotFoundError,
    StartError,
    UnavailableError,
)
from fusemld.model.extension import ServiceAccess

SCHEMES = ("https", "http", "ssh", "git", "file")
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
ABBREVIATED = re.compile(r"[0-9a-f]{7,64}")
ASKPASS = """#!/bin/sh
# Answers git's questions about one host only: a redirect elsewhere gets nothing.
case "$1" in
    *"//$FUSEMLD_GIT_HOST'"* | *"@$FUSEMLD_GIT_HOST'"*) ;;
    *) exit 1 ;;
esac
case "$1" in
    Username*) printf '%s\\n' "$FUSEMLD_GIT_USERNAME" ;;
    *) printf '%s\\n' "$FUSEMLD_GIT_PASSWORD" ;;
esac
"""
CONFIG = """[core]
    hooksPath = /dev/null
    autocrlf = false
    symlinks = true
[credential]
    helper =
[gc]
    auto = 0
[maintenance]
    auto = false
[protocol]
    allow = never
[protocol "https"]
    allow = always
[protocol "http"]
    allow = always
[protocol "ssh"]
    allow = always
[protocol "git"]
    allow = always
[protocol "file"]
    allow = always
[http]
    lowSpeedLimit = 100
    lowSpeedTime = 60
"""
PASSED_ON = (
    "PATH", "HOME", "USER", "SSH_AUTH_SOCK", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy",
    "https_proxy", "no_proxy", "all_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
)  # fmt: skip


class GitCredentials(msgspec.Struct, frozen=True, kw_only=True):
    """In memory only. `known_hosts` is the text of such a file; without it a new host is trusted once."""

    username: str = ""
    password: str = ""
    ssh_key: str = ""
    known_hosts: str = ""

    def __repr__(self) -> str:
        return "GitCredentials(<hidden>)"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A checked address. `path` is set for a repository of this host."""

    url: str
    host: str = ""
    path: str | None = None


def address(url: str) -> Address:
    """Check an address: `SCHEME://...`, `HOST:PATH` (ssh) or an absolute path. Raises InvalidInputError."""
    if any(ord(character) < 33 for character in url) or url.startswith("-"):
        raise InvalidInputError(f"cannot use {url!r} as the address of a git repository")
    if url.startswith("/"):
        return Address(url=url, path=url)
    if "://" not in url:
        if re.fullmatch(r"([A-Za-z0-9._][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!:)[^-].*", url):
            return Address(url=url, host=url.partition(":")[0].rpartition("@")[2])
        raise InvalidInputError(
            f"cannot use {url!r}: write the address of a git repository with one of {_schemes()}"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidInputError(f"cannot use the address of a git repository: {error}") from error
    if parts.password is not None or (parts.username and parts.scheme in {"http", "https"}):
        raise InvalidInputError(
            "cannot use an address with a password or a token in it: put the credentials in an extension record "
            "and name it with `extension:`"
        )
    if parts.scheme not in SCHEMES:
        raise InvalidInputError(f"cannot use {url!r}: only {_schemes()} are allowed")
    if parts.scheme == "file":
        if host:
            raise InvalidInputError(f"cannot use {url!r}: write file:///PATH")
        return Address(url=url, path=parts.path)
    if not host or host.startswith("-"):
        raise InvalidInputError(f"cannot use {url!r}: it names no host")
    return Address(url=url, host=f"{host}:{port}" if port else host)


def remote_url(pinned: PinnedCodeset) -> str:
    """The address of a pinned repository that another host could reach; empty for folders and repositories of
    this one."""
    if pinned.version.startswith("sha256:"):
        return ""
    where = address(pinned.url)
    return where.url if where.path is None else ""


def check_ref(ref: str) -> None:
    """Raises InvalidInputError for what no branch, tag or commit can be called (git-check-ref-format(1))."""
    bad = ref.startswith(("-", "/", ".")) or ref.endswith(("/", ".", ".lock")) or ".." in ref or "@{" in ref
    if bad or "//" in ref or re.search(r"[\x00-\x20~^:?*\[\\\x7f]", ref) or not ref or len(ref) > 255:
        raise InvalidInputError(f"cannot use {ref[:60]!r}: it is not the name of a branch, tag or commit")


def credentials_of(access: ServiceAccess | None) -> GitCredentials | None:
    """Find user name, password or token, and ssh key among the configuration values of an extension, under the
    keys `username`, `password` or `token`, `ssh_key` and `known_hosts`: in any case, with or without `GIT_`."""
    if access is None:
        return None
    values = {key.lower().removeprefix("git_"): value for key, value in access.configuration.items()}

    def first(*keys: str) -> str:
        return next((values[key] for key in keys if values.get(key)), "")

    password = first("password", "token", "access_token")
    return GitCredentials(
        username=first("username", "user") or ("git" if password else ""),
        password=password,
        ssh_key=first("ssh_key", "ssh_private_key", "private_key"),
        known_hosts=first("known_hosts", "ssh_known_hosts"),
    )


class Git:
    """Runs git for the repositories mirrored below `folder`. Every call has a deadline."""

    def __init__(self, folder: Path, *, timeout_s: float, quick_timeout_s: float = 60.0) -> None:
        self._folder = folder
        self._timeout_s = timeout_s
        self._quick_timeout_s = quick_timeout_s
        self._askpass = folder / "askpass"
        self._config = folder / "gitconfig"
        self._askpass.write_text(ASKPASS)
        self._askpass.chmod(0o700)
        self._config.write_text(CONFIG)

    async def commit_of(self, where: Address, ref: str | None, credentials: GitCredentials | None) -> str:
        """The commit that a ref stands for now, without fetching it; None stands for the default branch. What
        looks like a whole commit is one. Raises NotFoundError with close names."""
        if ref is not None:
            check_ref(ref)
            if COMMIT.fullmatch(ref):
                return ref
        text = await self._run(["ls-remote", "--", where.url], where, credentials, timeout_s=self._quick_timeout_s)
        refs = {name: commit for commit, _, name in (line.partition("\t") for line in text.splitlines())}
        if ref is None:
            if "HEAD" in refs:
                return refs["HEAD"]
            raise NotFoundError(f"cannot use {where.url}: the repository has no commit yet")
        for name in (f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", ref):
            if name in refs:
                return refs[name]
        if ABBREVIATED.fullmatch(ref):
            found = {commit for commit in refs.values() if commit.startswith(ref)}
            if len(found) == 1:
                return found.pop()
        raise NotFoundError(f"cannot use {where.url}: it has no branch, tag or commit {ref!r}{_near(ref, refs)}")

    async def fetch(self, mirror: Path, where: Address, commit: str, credentials: GitCredentials | None) -> None:
        """Have the commit in the bare repository `mirror`, which nobody else may use meanwhile. A server that does
        not hand out single commits is asked for everything it shows. Raises NotFoundError if it is not there."""
        try:
            await self._fetch(mirror, where, commit, credentials)
        except FusemldError as error:
            if mirror.name not in str(error):
                raise
            await run_sync(remove, mirror)  # what a killed git left behind: locks, half a repository
            await self._fetch(mirror, where, commit, credentials)

    async def _fetch(self, mirror: Path, where: Address, commit: str, credentials: GitCredentials | None) -> None:
        if not (mirror / "HEAD").exists():
            await self._run(["init", "--quiet", "--bare", "--", str(mirror)], where, None)
        os.utime(mirror)
        if await self._has(mirror, where, commit):
            return
        base = ["--git-dir", str(mirror), "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force"]
        keep = f"{commit}:refs/pins/{commit}"
        try:
            await self._run([*base, "--depth", "1", "--", where.url, keep], where, credentials)
        except FusemldError as error:
            if not _NO_SINGLE_COMMITS.search(str(error)):
                raise
            everything = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
            await self._run([*base, "--", where.url, *everything], where, credentials)
        if not await self._has(mirror, where, commit):
            raise NotFoundError(f"cannot use {where.url}: it has no commit {commit}")

    async def tree(self, mirror: Path, where: Address, commit: str) -> tuple[str, int, tuple[str, ...]]:
        """The id of the commit's tree, the size of its files in bytes, and its submodules."""
        base = ["--git-dir", str(mirror)]
        tree = await self._run([*base, "rev-parse", "--verify", f"{commit}^{{tree}}"], where, None)
        text = await self._run([*base, "ls-tree", "-r", "-l", "-z", tree.strip()], where, None)
        size_bytes = 0
        submodules: list[str] = []
        for line in filter(None, text.split("\0")):
            info, _, path = line.partition("\t")
            _, kind, _, size = info.split()
            size_bytes += int(size) if size.isdigit() else 0
            submodules += [path] if kind == "commit" else []
        return tree.strip(), size_bytes, tuple(submodules)

    async def write_out(self, mirror: Path, where: Address, tree: str, target: Path) -> None:
        """Write the files of a tree into the new folder `target`."""
        target.mkdir()
        index = target.with_name(f"{target.name}.index")
        base = ["--git-dir", str(mirror), "--work-tree", str(target)]
        extra = {"GIT_INDEX_FILE": str(index)}
        try:
            await self._run([*base, "read-tree", tree], where, None, extra=extra)
            await self._run([*base, "checkout-index", "--all", "--quiet"], where, None, extra=extra, cwd=target)
        finally:
            index.unlink(missing_ok=True)

    async def _has(self, mirror: Path, where: Address, commit: str) -> bool:
        """Not only the commit: a fetch that was cut short must not count."""
        try:
            wanted = ["--git-dir", str(mirror), "rev-list", "--objects", "--max-count=1", "--quiet", commit, "--"]
            await self._run(wanted, where, None)
        except FusemldError:
            return False
        return True

    async def _run(
        self,
        arguments: Sequence[str],
        where: Address,
        credentials: GitCredentials | None,
        *,
        timeout_s: float | None = None,
        extra: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> str:
        timeout_s = timeout_s or self._timeout_s
        with self._environment(where, credentials) as env:
            try:
                with anyio.fail_after(timeout_s):
                    done = await anyio.run_process(
                        ["git", *arguments],
                        check=False,
                        env={**env, **(extra or {})},
                        cwd=cwd or self._folder,
                        start_new_session=True,
                    )
            except TimeoutError as error:
                raise UnavailableError(f"cannot read {where.url}: no answer within {timeout_s:g} s") from error
            except FileNotFoundError as error:
                raise StartError("cannot use git repositories: the program git is not installed") from error
        if done.returncode:
            raise _failure(where, done.stderr.decode("utf-8", "replace"), credentials)
        return done.stdout.decode("utf-8", "surrogateescape")

    @contextlib.contextmanager
    def _environment(self, where: Address, credentials: GitCredentials | None) -> Iterator[dict[str, str]]:
        env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        env |= {
            "LC_ALL": "C.UTF-8",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_GLOBAL": str(self._config),
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
        }
        ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-o", "StrictHostKeyChecking=accept-new"]
        with contextlib.ExitStack() as stack:
            if credentials is not None and credentials.password:
                env |= {
                    "GIT_ASKPASS": str(self._askpass),
                    "FUSEMLD_GIT_HOST": where.host,
                    "FUSEMLD_GIT_USERNAME": credentials.username,
                    "FUSEMLD_GIT_PASSWORD": credentials.password,
                }
            if credentials is not None and credentials.ssh_key:
                key = stack.enter_context(self._private_file(credentials.ssh_key))
                ssh += ["-o", "IdentitiesOnly=yes", "-i", str(key)]
                env.pop("SSH_AUTH_SOCK", None)
            if credentials is not None and credentials.known_hosts:
                hosts = stack.enter_context(self._private_file(credentials.known_hosts))
                ssh += ["-o", f"UserKnownHostsFile={hosts}", "-o", "StrictHostKeyChecking=yes"]
            yield {**env, "GIT_SSH_COMMAND": shlex.join(ssh)}

    @contextlib.contextmanager
    def _private_file(self, text: str) -> Iterator[Path]:
        path = self._folder / "tmp" / secrets.token_hex(8)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text.rstrip("\n") + "\n")
            yield path
        finally:
            path.unlink(missing_ok=True)


_REFUSED = re.compile(
    r"authentication failed|could not read (username|password)|permission denied|terminal prompts disabled"
    r"|returned error: 40[13]|host key verification failed|access denied|invalid username or (password|token)",
    re.IGNORECASE,
)
_MISSING = re.compile(
    r"repository .*not found|not found|does not exist|does not appear to be a git repository|no such file"
    r"|returned error: 404",
    re.IGNORECASE,
)
_NO_SINGLE_COMMITS = re.compile(r"not our ref|unadvertised object|shallow|dumb http", re.IGNORECASE)
_OWNER = re.compile(r"dubious ownership", re.IGNORECASE)


def _failure(where: Address, stderr: str, credentials: GitCredentials | None) -> FusemldError:
    """What git said, as an error of ours. A server may echo what it was sent."""
    for secret in (credentials.password, credentials.ssh_key) if credentials else ():
        stderr = stderr.replace(secret, "***") if secret else stderr
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("fatal:", "ERROR:", "remote:"))]
    said = next(iter((*telling, *reversed(lines))), "git failed")
    if _REFUSED.search(stderr):
        remedy = "check the credentials of its extension" if credentials else "name an extension with credentials"
        return ForbiddenError(f"cannot read {where.url}: access refused; {remedy} ({said})")
    if _OWNER.search(stderr):
        return ForbiddenError(f"cannot read {where.url}: the repository belongs to another user than the daemon's")
    if _MISSING.search(stderr):
        return NotFoundError(f"cannot read {where.url}: there is no such repository ({said})")
    return UnavailableError(f"cannot read {where.url}: {said}")


def _near(ref: str, refs: Mapping[str, str]) -> str:
    shown = [name for name in refs if name.startswith(("refs/heads/", "refs/tags/")) and "^" not in name]
    names = [name.split("/", 2)[2] for name in shown]
    near = difflib.get_close_matches(ref, names, n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(repr(name) for name in near)}?"
    return f"; it has {', '.join(sorted(names)[:5])}" if names else ""


def _schemes() -> str:
    return ", ".join(f"{scheme}://" for scheme in SCHEMES)
