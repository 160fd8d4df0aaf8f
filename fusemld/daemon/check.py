"""What this host has for the daemon, and what to do about what it lacks: `fusemld check`."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
from uv import find_uv_bin

from fusemld.api import access
from fusemld.api.client import Client
from fusemld.api.sockets import PATH_LIMIT_BYTES
from fusemld.api.views import HealthView
from fusemld.daemon import check_cluster
from fusemld.daemon.findings import Finding, fail, ok, warn
from fusemld.daemon.settings import Settings
from fusemld.executors.process import groups, user_limit
from fusemld.hooks.manager import load_plugins
from fusemld.model.errors import FusemldError, UnreachableError

GIB = 1024**3
SPACE_WARN_BYTES = 5 * GIB
SPACE_FAIL_BYTES = 1 * GIB
FILES_WANTED = 4096
COMMAND_TIMEOUT_S = 30.0


def check(settings: Settings, *, run_pod: bool = False) -> list[Finding]:
    """Every finding, in the order in which things are needed. Changes nothing on the host; takes seconds.

    With `run_pod` a pod is run in the cluster and removed.
    """
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python,
        _uv,
        _git,
        _sandbox,
        _state,
        _space,
        _watched_folder,
        _socket,
        _group,
        _loopback,
        _open_files,
        _step_processes,
        _plugins,
    )
    found = [finding for part in checks for finding in part(settings)]
    return found + check_cluster.check(settings, run_pod=run_pod)


def _python(_: Settings) -> Iterator[Finding]:
    yield ok("python", f"{platform.python_version()}, {sys.executable}")


def _uv(_: Settings) -> Iterator[Finding]:
    try:
        uv = find_uv_bin()
    except FileNotFoundError:
        yield fail("uv", "not found: no environment can be built", "pip install uv")
        return
    version = _output(uv, "--version")
    if version is None:
        yield fail("uv", f"{uv} does not run", "pip install --force-reinstall uv")
        return
    yield ok("uv", f"{version}, {uv}")
    listed = _output(uv, "python", "list", "--only-installed", "--output-format", "json")
    try:
        found = msgspec.json.decode(listed or "[]", type=list[_Interpreter])
    except msgspec.MsgspecError:
        found = []
    versions = sorted({_minor(each.version) for each in found}, key=_numbers)
    yield ok("interpreters", ", ".join(versions) or "only the daemon's own; uv may download others")


class _Interpreter(msgspec.Struct):
    version: str


def _git(_: Settings) -> Iterator[Finding]:
    git = shutil.which("git")
    version = _output(git, "--version") if git else None
    if version:
        yield ok("git", f"{version.removeprefix('git version ')}, {git}")
    else:
        yield warn("git", "not found: codesets can only be folders", "install git")


def _sandbox(settings: Settings) -> Iterator[Finding]:
    wanted = settings.process.sandbox
    if wanted == "off":
        yield ok("sandbox", "switched off: steps see the whole host")
        return
    bwrap = shutil.which("bwrap")
    bad = fail if wanted == "bwrap" else warn
    if bwrap is None:
        message = "bubblewrap is not found: the paths of a step are not real, and it sees the whole host"
        yield bad("sandbox", message, "install bubblewrap (Debian, Fedora: package bubblewrap)")
    elif _output(bwrap, "--ro-bind", "/", "/", "--dev", "/dev", "true") is None:
        message = "bubblewrap is there, but may not make namespaces"
        yield bad(
            "sandbox", message, "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1)"
        )
    else:
        yield ok("sandbox", f"bubblewrap, {bwrap}")


def _state(settings: Settings) -> Iterator[Finding]:
    problem = _not_writable(settings.state)
    if problem:
        yield fail("state folder", problem, "choose another with --state or FUSEMLD_STATE, or change its owner")
    else:
        missing = "" if settings.state.exists() else " (made at the first start)"
        yield ok("state folder", f"{settings.state}{missing}")


def _space(settings: Settings) -> Iterator[Finding]:
    free = shutil.disk_usage(_nearest(settings.state)).free
    message = f"{free / GIB:.1f} GiB free below {settings.state}"
    remedy = "environments and models need several GiB: make room, or choose another --state"
    if free < SPACE_FAIL_BYTES:
        yield fail("disk space", message, remedy)
    elif free < SPACE_WARN_BYTES:
        yield warn("disk space", message, remedy)
    else:
        yield ok("disk space", message)


def _watched_folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.folder
    if folder.is_dir():
        if os.access(folder, os.R_OK | os.X_OK):
            yield ok("watched folder", str(folder))
        else:
            yield fail("watched folder", f"{folder} cannot be read", "change its mode, or choose another --folder")
        return
    problem = _not_writable(folder)
    if problem:
        yield fail("watched folder", problem, "make it, or choose another with --folder")
    else:
        yield ok("watched folder", f"{folder} (made at the first start)")


def _socket(settings: Settings) -> Iterator[Finding]:
    path = settings.socket
    if len(os.fsencode(path)) > PATH_LIMIT_BYTES:
        message = f"{path} is longer than the {PATH_LIMIT_BYTES} bytes that the system allows"
        yield fail("socket", message, "choose a shorter one with --socket or FUSEMLD_SOCKET")
        return
    try:
        health = Client(path).get("/health", HealthView)
    except UnreachableError:
        problem = _not_writable(path.parent)
        if problem:
            yield fail("socket", problem, "choose another with --socket or FUSEMLD_SOCKET")
        else:
            yield ok("socket", f"{path}; no daemon listens there")
    except FusemldError as error:
        yield warn("socket", f"{path}: {error}", "ask for membership in the daemon's group")
    else:
        wrong = [f"{each.name}: {each.message}" for each in health.components if not each.ok]
        if wrong:
            yield warn("socket", f"{path}; the daemon there is {health.state}", "; ".join(wrong))
        else:
            yield ok("socket", f"{path}; a daemon runs there as process {health.pid}")


def _group(settings: Settings) -> Iterator[Finding]:
    if not settings.group:
        return
    try:
        access.group_id(settings.group)
    except FusemldError as error:
        yield fail("group", str(error), f"groupadd --system {settings.group}")
    else:
        yield ok("group", f"members of {settings.group} operate")


def _loopback(_: Settings) -> Iterator[Finding]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError as error:
            message = f"no port can be had on 127.0.0.1: {error.strerror}"
            yield fail("loopback", message, "bring the loopback interface up")
        else:
            yield ok("loopback", "ports can be had on 127.0.0.1")


def _open_files(settings: Settings) -> Iterator[Finding]:
    """Of a daemon that runs its own limit is told, where this user may know it."""
    daemon, whose = _running_daemon(settings.socket), ""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if daemon:
        with suppress(OSError):
            soft, hard = resource.prlimit(daemon, resource.RLIMIT_NOFILE)
            whose = " for the daemon that runs"
    if soft == resource.RLIM_INFINITY or soft >= FILES_WANTED:
        yield ok("open files", f"{'unlimited' if soft == resource.RLIM_INFINITY else soft} at once{whose}")
    else:
        most = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
        remedy = f"`ulimit -n {most}` where the daemon is started, or LimitNOFILE={most} in its unit"
        yield warn("open files", f"only {soft} at once{whose}: many steps at a time may fail", remedy)


def _step_processes(settings: Settings) -> Iterator[Finding]:
    """Of a daemon that runs it is told what holds there: it may have been started elsewhere than this command."""
    limit = settings.process.step_processes
    if not limit:
        yield ok("step processes", "without limit (process.step_processes is 0)")
        return
    daemon = _running_daemon(settings.socket)
    whose = "the daemon that runs" if daemon else "a daemon started from here"
    user = Path(f"/proc/{daemon or 'self'}").stat().st_uid
    allowed = f"at most {limit} a step"
    if (place := groups.find(daemon)) is not None:
        yield ok("step processes", f"{allowed}, held by control groups in {place.base} for {whose}")
    elif user_limit.holds(user):
        message = f"about {limit} a step, held by the limit of the user {user} (RLIMIT_NPROC) for {whose}"
        yield ok("step processes", f"{message}; in a delegated control group each step would have its own")
    else:
        message = f"nothing can hold {whose} to {limit} a step: there is no control group, and it is root"
        yield warn("step processes", message, "use systemd/fusemld.service, or start the daemon as another user")


def _running_daemon(path: Path) -> int | None:
    try:
        return Client(path).get("/health", HealthView).pid
    except FusemldError:
        return None


def _plugins(_: Settings) -> Iterator[Finding]:
    try:
        plugins = load_plugins()
    except FusemldError as error:
        yield fail("plugins", str(error), "remove or repair the plugin that it names")
        return
    if plugins.names:
        yield ok("plugins", ", ".join(f"{name} {version}".rstrip() for name, version in plugins.names))
    else:
        message = "none: only python, host and mapped images can be run"
        yield warn("plugins", message, "install fusemld-mlflow, fusemld-s3 and fusemld-kserve")


def _nearest(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.is_dir())


def _not_writable(folder: Path) -> str:
    """Why nothing can be written there (or the folder not be made), empty where it can."""
    place = _nearest(folder)
    if any(each.exists() and not each.is_dir() for each in (folder, *folder.parents)):
        return f"{folder} is not a folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            return ""
    except OSError as error:
        return f"{place} cannot be written: {error.strerror}"


def _output(*command: str) -> str | None:
    """What the command prints, None where it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]
