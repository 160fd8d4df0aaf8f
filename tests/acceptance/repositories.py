"""Git repositories as codesets come from them, and ports for who serves something to pods."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path


class Repository:
    """A real git repository whose file `version` says which commit it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *settings, *arguments], cwd=self.path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, version: str) -> str:
        (self.path / "version").write_text(f"{version}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", version)
        return self.git("rev-parse", "HEAD")


def free_port(address: str) -> int:
    with socket.create_server((address, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def await_listener(address: str, port: int, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address, port), timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline, f"nobody listens at {address}:{port}"
            time.sleep(0.05)
        else:
            return
