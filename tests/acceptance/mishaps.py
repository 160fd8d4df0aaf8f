"""What happens to hosts: full disks, files that cannot be written, too few descriptors, lost events, another boot.

All of it is real, and ends with its block; only the wall clock and the slow disk are doubles (`HostDouble`).
Mounts are in a mount namespace of this process: they are gone with it, whatever ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import shutil
import struct
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_CLONE_NEWNS = 0x00020000
_GETFLAGS, _SETFLAGS, _IMMUTABLE = 0x80086601, 0x40086602, 0x10  # linux/fs.h
_QUEUE_LIMIT = Path("/proc/sys/fs/inotify/max_queued_events")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def why_no_mounts() -> str:
    """Why file systems cannot be mounted here; empty where they can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    probe = subprocess.run(["unshare", "-m", "mount", "--make-rprivate", "/"], capture_output=True, check=False)
    return f"mounting is not allowed: {probe.stderr.decode().strip()}" if probe.returncode else ""


def why_no_small_disk() -> str:
    if shutil.which("mkfs.ext4") is None:
        return "mkfs.ext4 is not installed"
    if not Path("/dev/loop-control").exists():
        return "this host has no loop devices"
    return why_no_mounts()


def why_no_double() -> str:
    return "" if shutil.which("cc") else "there is no C compiler"


def _skipped(why: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(bool(why), reason=why)


needs_mounts = _skipped(why_no_mounts())
needs_small_disk = _skipped(why_no_small_disk())
needs_double = _skipped(why_no_double())


# Mounts


def enter_private_mounts() -> None:
    """From here on nobody else sees what this thread and what it starts mount; it is gone with them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


@contextmanager
def private_mounts() -> Iterator[None]:
    """The same, and back again at the end of the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    here = Path.cwd()
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_private_mounts()
        try:
            yield
        finally:
            if libc.setns(before, _CLONE_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            os.chdir(here)
    finally:
        os.close(before)


def mount_small_disk(folder: Path, image: Path, size_mib: int = 64) -> None:
    """An ext4 file system of its own on the folder, in a file of the host. Call it among private mounts."""
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-i", "8192", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)


def remount(folder: Path, how: str) -> None:
    """`ro`, where nobody has a file open for writing, or `rw`."""
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Not one block of the folder's file system is free."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb") as file:
            size, piece = 0, 1 << 30
            while piece:
                try:
                    os.posix_fallocate(file.fileno(), size, piece)
                    size += piece
                except OSError as error:
                    if error.errno not in {errno.ENOSPC, errno.EFBIG}:
                        raise
                    piece //= 2
        yield
    finally:
        ballast.unlink()


def change_boot_id(image: Path) -> None:
    """From now on the boot id is another one for all who look from here. Call it among private mounts."""
    image.write_text(f"{uuid.uuid4()}\n")
    if not image.samefile(_BOOT_ID):
        subprocess.run(["mount", "--bind", image, _BOOT_ID], check=True)


# Files, descriptors, events


@contextmanager
def unwritable(files: Iterable[Path]) -> Iterator[None]:
    """The kernel refuses every change of the files, also by those who have them open, as on a file system that has
    become read-only. Needs root and ext4."""
    with contextlib.ExitStack() as stack:
        for file in files:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            (flags,) = struct.unpack("i", fcntl.ioctl(descriptor, _GETFLAGS, struct.pack("i", 0)))
            fcntl.ioctl(descriptor, _SETFLAGS, struct.pack("i", flags | _IMMUTABLE))
            stack.callback(fcntl.ioctl, descriptor, _SETFLAGS, struct.pack("i", flags))
        yield


@contextmanager
def few_descriptors(pids: Iterable[int], spare: int = 0) -> Iterator[None]:
    """The processes cannot open anything more, or only so many."""
    before: dict[int, tuple[int, int]] = {}
    try:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
                before[pid] = soft, hard
                resource.prlimit(pid, resource.RLIMIT_NOFILE, (_first_free(pid) + spare, hard))
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


def _first_free(pid: int) -> int:
    listed = list(Path(f"/proc/{pid}/fd").iterdir())  # in this process also that of the listing itself
    used = {int(entry.name) for entry in listed if entry.is_symlink()}
    return min(set(range(len(used) + 1)) - used)


def flood_with_events(folder: Path) -> None:
    """More than the queue of one who watches the folder and does not read just now can hold: the kernel drops what
    comes afterwards. Of hidden files, which are no documents; equal events in a row would count as one."""
    files = [folder / name for name in (".flood-a", ".flood-b")]
    for number in range(int(_QUEUE_LIMIT.read_text()) + 100):
        os.close(os.open(files[number % 2], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for file in files:
        file.unlink()


class HostDouble:
    """Another wall clock and a slower disk, at any time, for who is started with `environment`: see `host.c`."""

    def __init__(self, folder: Path) -> None:
        self._control = folder / "host"
        library = folder / "host.so"
        self.set()
        macros = [f'-DCONTROL="{self._control}"', f'-DSELF="{library}"']
        source = Path(__file__).with_name("host.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", *macros, "-o", library, source, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library)}

    def set(self, *, clock_is_off_by_s: float = 0.0, sync_takes_s: float = 0.0) -> None:
        """From this moment on. Written in place: it is mapped."""
        data = struct.pack("qq", int(clock_is_off_by_s * 1e9), int(sync_takes_s * 1e9))
        descriptor = os.open(self._control, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)
