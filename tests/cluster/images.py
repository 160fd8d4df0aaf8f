"""The images that the node has; no registry can be reached from it, so nothing is ever pulled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.cluster.layers import write_archive
from tests.cluster.packages import UnpackedPackages, command, install, mirror

BASE = "localhost/base:1"
"""Debian with sh, coreutils, tar, gzip, git and python3-minimal (which knows sockets and TLS, and no HTTP)."""
PAUSE = "localhost/pause:1"
NAMESPACE = "k8s.io"
RELEASE = "bookworm"
PYTHON = "3.11"
"""Of that release."""

PAUSE_PROGRAM = """\
#include <signal.h>
#include <unistd.h>
static void end(int signal) { _exit(0); }
int main() { signal(SIGTERM, end); for (;;) pause(); }
"""


def build(folder: Path, run: Path, log: Path) -> tuple[Path, Path]:
    """Archives of both images below `folder`, made once."""
    base, pause = folder / "base.tar", folder / "pause.tar"
    if base.exists() and pause.exists():
        return base, pause
    install({"debootstrap": "debootstrap", "podman": "podman", "gcc": "gcc libc6-dev"}, log / "apt.log")
    root = folder / "rootfs"
    if not (root / "usr").exists():
        packages = "python3-minimal,git,ca-certificates"
        command(
            "debootstrap", "--variant=minbase", f"--include={packages}", RELEASE, root, mirror(),
            log=log / "debootstrap.log",
        )  # fmt: skip
    (folder / "pause").mkdir(exist_ok=True)
    source = folder / "pause.c"
    source.write_text(PAUSE_PROGRAM)
    command("gcc", "-static", "-Os", "-o", folder / "pause/pause", source)

    podman = ("podman", "--root", folder / "podman", "--runroot", run / "podman", "--storage-driver", "vfs")
    for name, content, archive, more in (
        (PAUSE, folder / "pause", pause, ("--change", 'ENTRYPOINT ["/pause"]')),
        (BASE, root, base, ()),
    ):
        packed = folder / "content.tar"
        command("tar", "-C", content, "-c", "-f", packed, ".")
        command(*podman, "import", "-q", *more, packed, name)
        packed.unlink()
        command(*podman, "save", "-q", "-o", archive, name)
    return base, pause


def load(packages: UnpackedPackages, socket: Path, archives: tuple[Path, ...]) -> None:
    """Into containerd, unless it has them."""
    ctr = _ctr(packages, socket)
    if BASE not in command(*ctr, "images", "ls", "-q").split():
        for archive in archives:
            command(*ctr, "images", "import", archive)


def load_larger(
    packages: UnpackedPackages, socket: Path, folder: Path, name: str, content: Mapping[str, Path]
) -> None:
    """Into containerd, unless it has an image of that name: the base image, whose archive is in `folder`, and
    folders of the host at their paths in the image."""
    ctr = _ctr(packages, socket)
    if name in command(*ctr, "images", "ls", "-q").split():
        return
    archive = folder / "larger.tar"
    write_archive(archive, name, folder / "base.tar", content)
    command(*ctr, "images", "import", "--local", archive)  # half the time of containerd's own transfer
    archive.unlink()


def _ctr(packages: UnpackedPackages, socket: Path) -> tuple[str | Path, ...]:
    return packages.program("ctr"), "-a", socket, "-n", NAMESPACE
