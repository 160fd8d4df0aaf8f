"""A machine of the tests' own: Debian with systemd as its first process, below a kernel in user mode.

It has version 2 of control groups, one processor and no network. Its disk is a folder of this host. Building it
takes two minutes, a boot half of one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.packages import command, install, mirror

PROJECT = Path(__file__).parents[2]
RELEASE, PYTHON = "trixie", "3.13"
PACKAGES = "systemd,systemd-sysv,dbus,sudo,procps,git,python3,python3-venv"
MEMORY = "1500M"
MASKED = (
    "apt-daily-upgrade.timer", "apt-daily.timer", "console-getty.service", "dpkg-db-backup.timer",
    "e2scrub_all.timer", "fstrim.timer", "getty@tty1.service", "systemd-journal-flush.service",
)  # fmt: skip
UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
StandardOutput=append:/typed.log
StandardError=inherit
ExecStart=/bin/bash /typed.sh
ExecStopPost=/usr/bin/systemctl poweroff --force --force
TimeoutStartSec=infinity
"""
PROLOGUE = """\
for place in /var/lib /srv; do mount -t tmpfs -o mode=755,size=16G tmpfs $place; done
cd /project
type_it() { bash -c "$1" 2>&1; printf '\\n== %d\\n' $?; }
"""


class Machine:
    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._log = folder / "boot.log"

    def build(self) -> None:
        """With the project in `/project`, and all that pip needs to install it."""
        install({"debootstrap": "debootstrap", "linux.uml": "user-mode-linux"}, self._log)
        debootstrap = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", RELEASE, self._root, mirror())
        command(*debootstrap, log=self._log)
        files = command("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=PROJECT)
        for file in filter(None, files.split("\0")):
            if (PROJECT / file).exists():
                (self._root / "project" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / file, self._root / "project" / file)
        wheels = ("--dest", self._root / "wheels", "--only-binary", ":all:", "--python-version", PYTHON)
        download = (sys.executable, "-m", "pip", "download", "--quiet", *wheels)
        command(*download, "--no-deps", "--requirement", PROJECT / "requirements.lock")
        command(*download, "hatchling")
        (self._root / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        (self._root / "etc/hostname").write_text("machine\n")
        (self._root / "etc/hosts").write_text("127.0.0.1 localhost machine\n")
        units = self._root / "etc/systemd/system"
        (units / "multi-user.target.wants").mkdir(parents=True, exist_ok=True)
        (units / "typed.service").write_text(UNIT)
        (units / "multi-user.target.wants/typed.service").symlink_to("../typed.service")
        for unit in MASKED:
            (units / unit).symlink_to("/dev/null")

    def type_all(self, commands: Sequence[str], timeout_s: float) -> list[tuple[int, str]]:
        """Boot it, have root type the commands, and switch it off: the exit status and the words of each."""
        typed = "".join(f"type_it {_quoted(each)}\n" for each in commands)
        (self._root / "typed.sh").write_text(PROLOGUE + typed)
        kernel = ("linux.uml", f"mem={MEMORY}", "rootfstype=hostfs", f"rootflags={self._root}", "rw")
        with self._log.open("wb") as log:
            subprocess.run(
                (*kernel, "init=/lib/systemd/systemd", "con=null", "con0=null,fd:2"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=timeout_s,
                check=False,
            )
        words = (self._root / "typed.log").read_text()
        *parts, _switched_off = re.split(r"\n== (\d+)\n", words)
        assert len(parts) == 2 * len(commands), f"it did not come to its end:\n{words[-3000:]}"
        return [(int(status), said) for said, status in zip(parts[::2], parts[1::2], strict=True)]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
