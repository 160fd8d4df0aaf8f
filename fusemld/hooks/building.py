"""Builds environments with uv: the one place that does, for the daemon's services and for steps alike.

Synchronous, and usable as a process of its own (`python -m fusemld.hooks.building`), so that a build outlives
the daemon and shows in a log. Everything is keyed by content and safe to repeat: an environment counts once its
marker is there; a build that was killed is done anew; of two builds of one environment at once the second waits
and uses the first's. What uv itself leaves running when only its parent is killed keeps the lock.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from uv import find_uv_bin

from fusemld.hooks.environments import EnvironmentSpec, Note
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model.errors import StartError

_MARKER = "fusemld-environment.json"
_INTERPRETERS = "interpreters"
_KEY = re.compile(r"[0-9a-f]{24}")
_KEPT_UV_VARIABLES = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|INDEX_STRATEGY|INDEX_.+_(USERNAME|PASSWORD)|FIND_LINKS|"
    r"KEYRING_PROVIDER|OFFLINE|NATIVE_TLS|SYSTEM_CERTS|INSECURE_HOST|HTTP_TIMEOUT|PYTHON_INSTALL_MIRROR)"
)
_NETWORK_VARIABLES = re.compile(r"(?i)(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|NETRC")
_PASSED_ON = re.compile(r"PATH|HOME|LANG|LC_.*|TMPDIR|TZ|PYENV_ROOT|LD_LIBRARY_PATH|CC|CXX")
_PASSWORDS = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_WORTH_TELLING = re.compile(r"^\s*(Downloading|Building|Resolved|Installed) .+")
_INDEX_OPTION = re.compile(r"(-i|--index-url|--extra-index-url|-f|--find-links|--no-index)\b")
_LAST_LINES = 25


class _Marker(msgspec.Struct, frozen=True, kw_only=True):
    """Written last: `interpreter` is the base interpreter that the environment links to."""

    key: str
    interpreter: str


def build_environment(spec: EnvironmentSpec, folders: RuntimeFolders, note: Note) -> Path:
    """The folder of the complete environment, built if need be; its interpreter is `bin/python`.

    Raises `StartError` with uv's own words where it cannot be built or the interpreter cannot be had.
    """
    with _locked(folders.environments / f".{spec.key}.lock", f"the environment of {spec.label}", note) as lock:
        if ready := find_environment(spec.key, folders):
            return ready
        folder = folders.environments / spec.key
        if folder.exists():
            note("an earlier build was interrupted, building anew")
            shutil.rmtree(folder)
        uv = Uv(folders, lock)
        interpreter = uv.find_interpreter(spec.python, note)
        count = _count(spec.requirements)
        note(f"installing: {spec.label} ({count} package{'' if count == 1 else 's'})")
        try:
            _install(uv, interpreter, spec.requirements, folder, note)
        except StartError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise StartError(f"cannot build the environment of {spec.label}: {error}") from error
        _write_atomically(folder / _MARKER, msgspec.json.encode(_Marker(key=spec.key, interpreter=interpreter)))
        return folder


def find_environment(key: str, folders: RuntimeFolders) -> Path | None:
    """The folder of a complete environment whose interpreter still exists, else None. That it was asked for is
    noted: see `environments`."""
    folder = folders.environments / key
    if not (folder / _MARKER).is_file() or not (folder / "bin" / "python").exists():
        return None
    with contextlib.suppress(OSError):  # a sandbox may show it read-only
        os.utime(folder / _MARKER)
    return folder


def environments(folders: RuntimeFolders) -> Iterator[tuple[str, float]]:
    """The key of every environment, and when it was last asked for (of one whose build was cut short: begun)."""
    for folder in folders.environments.iterdir():
        if _KEY.fullmatch(folder.name) and folder.is_dir():
            marker = folder / _MARKER
            yield folder.name, (marker if marker.is_file() else folder).stat().st_mtime


def may_discard(key: str, folders: RuntimeFolders, unused_since: float) -> bool:
    """Whether `discard_environment` would; nothing is changed. Raises OSError."""
    try:
        lock = os.open(folders.environments / f".{key}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return _is_unused(key, folders, unused_since)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return _is_unused(key, folders, unused_since)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)


def discard_environment(key: str, folders: RuntimeFolders, unused_since: float, place: Path) -> bool:
    """Move an environment to `place`, on the same file system, unless somebody has asked for it since that time or
    builds it now. Whether it is gone. Raises OSError."""
    lock = os.open(folders.environments / f".{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_unused(key, folders, unused_since):
            return False
        (folders.environments / key).rename(place)
        (folders.environments / f".{key}.json").unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _is_unused(key: str, folders: RuntimeFolders, since: float) -> bool:
    return dict(environments(folders)).get(key, since) < since


def discard_downloads(folders: RuntimeFolders) -> bool:
    """Empty uv's cache, unless a build uses it now; whether it is empty. Environments keep their files; the next
    builds download theirs again. Raises `StartError` with uv's own words."""
    with _locked(folders.environments / ".downloads.lock", "anything", lambda _: None) as lock:
        try:
            Uv(folders, lock).run("cache", "clean", env={"UV_LOCK_TIMEOUT": "1"})
        except StartError as error:
            if "lock" not in str(error).lower():
                raise
            return False
    return True


def lock_requirements(requirements: str, python: str, folders: RuntimeFolders, note: Note) -> str:
    """The requirements with everything they need, pinned for the interpreter and this host.

    The answer is kept: the same question has the same answer until it is removed, also without a network.
    Raises `StartError` with uv's own words.
    """
    question = EnvironmentSpec(label="", requirements=requirements, python=python)
    answer = folders.environments / f"{question.key}.lock.txt"
    with _locked(answer.with_suffix(".lock"), "the same requirements", note) as lock:
        if not answer.is_file():
            uv = Uv(folders, lock)
            interpreter = uv.find_interpreter(python, note)
            command = ("pip", "compile", "-", "--python", interpreter, "--no-header", "--no-annotate")
            pins = uv.run(*command, "--no-progress", stdin=requirements, note=note)
            indexes = "".join(f"{line}\n" for line in requirements.splitlines() if _INDEX_OPTION.match(line))
            _write_atomically(answer, (indexes + pins).encode())
        return answer.read_text()


def find_interpreter(version: str, folders: RuntimeFolders, note: Note) -> str:
    """The path of an interpreter of that version: the daemon's own, one of the host, or one fetched now.

    Raises `StartError` with uv's own words where it cannot be had.
    """
    with _locked(folders.environments / f".python-{version}.lock", f"Python {version}", note) as lock:
        return Uv(folders, lock).find_interpreter(version, note)


def network_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Of these variables those that say how packages are reached: indexes, proxies, certificates."""
    matches = (_KEPT_UV_VARIABLES, _NETWORK_VARIABLES)
    return {name: value for name, value in environ.items() if any(m.fullmatch(name) for m in matches)}


def tool_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Of these variables those that programs need to find each other, their user and a compiler."""
    return {name: value for name, value in environ.items() if _PASSED_ON.fullmatch(name)}


def passwords(texts: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Passwords in these (name, value) pairs: of variables that are named so, and in URLs."""
    found: set[str] = set()
    for name, value in texts:
        found |= {value} if name.endswith("_PASSWORD") else set(_PASSWORDS.findall(value))
    return frozenset(found - {""})


class Uv:
    """uv with its own cache and interpreters below the state folder, and without the user's configuration.

    Every process that it starts inherits `lock`, so that the lock is held for as long as any of them lives.
    """

    def __init__(self, folders: RuntimeFolders, lock: int) -> None:
        self._program = find_uv_bin()
        self._cwd = folders.environments
        self._lock = lock
        self._env = network_environment(os.environ) | tool_environment(os.environ)
        self._env |= {
            "UV_CACHE_DIR": str(folders.cache),
            "UV_PYTHON_INSTALL_DIR": str(folders.environments / _INTERPRETERS),
            "UV_NO_CONFIG": "1",
            "NO_COLOR": "1",
        }

    def find_interpreter(self, version: str, note: Note) -> str:
        """The path of an interpreter of that version: the daemon's own, one of the host, or one fetched."""
        if _is_own_version(version):
            return sys.executable
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        installed = [str(folder) for folder in sorted(pyenv.glob(f"{version}*/bin"), reverse=True)]
        search = {"PATH": os.pathsep.join([*installed, self._env.get("PATH", os.defpath)])}
        find = ("python", "find", "--system", "--no-project", "--no-python-downloads", version)
        with contextlib.suppress(StartError):
            return self.run(*find, env=search).strip()
        note(f"fetching Python {version}")
        try:
            self.run("python", "install", "--no-bin", "--no-progress", version)
            return self.run(*find, env=search).strip()
        except StartError as error:
            raise StartError(f"cannot find Python {version} on this host, nor fetch it: {error}") from error

    def run(
        self, *args: str, stdin: str = "", env: Mapping[str, str] | None = None, note: Note | None = None
    ) -> str:
        """Standard output of uv; what it says meanwhile goes to `note`. Raises `StartError` with its words."""
        said: list[str] = []
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as output:
            given.write(stdin)
            given.seek(0)
            process = subprocess.Popen(
                (self._program, *args),
                cwd=self._cwd,
                env=self._env | dict(env or {}),
                stdin=given,
                stdout=output,
                stderr=subprocess.PIPE,
                pass_fds=(self._lock,),
                text=True,
                errors="replace",
            )
            with process:
                for line in process.stderr or ():
                    said.append(line.rstrip())
                    if note is not None and _WORTH_TELLING.match(line):
                        note(line.strip()[0].lower() + line.strip()[1:])
            if process.returncode != 0:
                words = "\n".join(said[-_LAST_LINES:]).strip() or f"it ended with status {process.returncode}"
                raise StartError(f"uv: {words}")
            output.seek(0)
            return output.read()


def _install(uv: Uv, interpreter: str, requirements: str, folder: Path, note: Note) -> None:
    uv.run("venv", "--quiet", "--python", interpreter, str(folder))
    given = folder / "requirements.txt"
    given.write_text(requirements)
    target = ("--python", str(folder / "bin" / "python"), "--requirement", str(given))
    uv.run("pip", "install", *target, "--link-mode", "hardlink", "--no-progress", note=note)


@contextlib.contextmanager
def _locked(path: Path, what: str, note: Note) -> Iterator[int]:
    """Holds an advisory lock that the kernel gives back when every process that inherited it has gone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"cannot build {what}: {error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"waiting for another build of {what}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    except OSError as error:
        raise StartError(f"cannot build {what}: {error}") from error
    finally:
        os.close(lock)


def _is_own_version(version: str) -> bool:
    """Whether the running interpreter is what `3.11`, `3.11.2`, `>=3.9,<3.12` or nothing asks for."""
    own = platform.python_version()
    if not version[:1] or version[0] in "<>=!~":
        try:
            return own in SpecifierSet(version, prereleases=True)
        except InvalidSpecifier as error:
            raise StartError(f"{version!r} is no version of Python: {error}") from error
    return f"{own}.".startswith(f"{version}.")


def _count(requirements: str) -> int:
    lines = (line.lstrip() for line in requirements.splitlines())
    return sum(1 for line in lines if line and line[0].isalnum())


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def main() -> int:
    """Builds the environment that a file describes (an `EnvironmentSpec` as JSON); notes go to standard output."""
    parser = argparse.ArgumentParser(prog="python -m fusemld.hooks.building", description=main.__doc__)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    options = parser.parse_args()
    folders = RuntimeFolders(environments=options.environments, cache=options.cache)
    try:
        spec = msgspec.json.decode(options.spec.read_bytes(), type=EnvironmentSpec)
        build_environment(spec, folders, lambda text: print(text, flush=True))  # noqa: T201
    except StartError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
