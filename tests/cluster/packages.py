"""What tests need of Debian's packages: the cluster beside the Kubernetes programs, and machines of their own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.programs import ClusterError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def command(*argv: str | Path, log: Path | None = None, cwd: Path | None = None) -> str:
    """What it prints. Raises `ClusterError` with its words where it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=cwd)
    except FileNotFoundError as error:
        raise ClusterError(f"cannot run {argv[0]}: it is not installed") from error
    if log is not None:
        log.write_text(done.stdout + done.stderr)
    if done.returncode:
        words = (done.stdout + done.stderr).strip()[-2000:]
        raise ClusterError(f"cannot run {' '.join(map(str, argv))}: exit status {done.returncode}\n{words}")
    return done.stdout


def mirror() -> str:
    """The Debian mirror that this host uses."""
    uris = command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    found = next((uri for uri in uris if "security" not in uri), None)
    if found is None:
        raise ClusterError("cannot download packages: apt knows no Debian mirror")
    return found


def install(programs: Mapping[str, str], log: Path) -> None:
    """Program to the packages that it needs: those that are not there are installed, from this host's release."""
    if missing := [
        name for program, names in programs.items() if not shutil.which(program) for name in names.split()
    ]:
        command("apt-get", "-qq", "update")
        command("apt-get", "-qq", "--yes", "--no-install-recommends", "install", *missing, log=log)


class UnpackedPackages:
    """Packages of another release than this host may have, unpacked below `folder`/root and not installed."""

    def __init__(self, folder: Path, release: str = "sid") -> None:
        self.root = folder / "root"
        self._release = release
        self._folder = folder

    @property
    def path(self) -> tuple[Path, ...]:
        return (self.root / "usr/bin", self.root / "usr/sbin")

    def program(self, name: str) -> Path:
        return next(folder / name for folder in self.path if (folder / name).exists())

    def add(self, *packages: str) -> None:
        for package in packages:
            if not (done := self._folder / f"{package}.done").exists():
                self._add(package)
                done.touch()

    def _add(self, package: str) -> None:
        (self._folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        self.root.mkdir(exist_ok=True)
        sources = self._folder / "sources.list"
        if not sources.exists():
            sources.write_text(f"deb [signed-by={KEYRING}] {mirror()} {self._release} main\n")
        options = (
            "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=-",
            "-o", f"Dir::State::Lists={self._folder / 'lists'}", "-o", "APT::Sandbox::User=root",
        )  # fmt: skip
        if not (listed := self._folder / "lists.done").exists():
            command("apt-get", "-qq", *options, "update")
            listed.touch()
        for old in self._folder.glob(f"{package}_*.deb"):
            old.unlink()
        command("apt-get", "-qq", *options, "download", package, cwd=self._folder)
        (archive,) = self._folder.glob(f"{package}_*.deb")
        command("dpkg", "-x", archive, self.root)
