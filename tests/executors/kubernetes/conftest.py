"""Shells that the scripts of helper containers must work in, and where executors live."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.local import LocalCluster
from tests.executors.kubernetes.room import Site

Shell = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(params=["sh", "busybox"])
def shell_argv(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """A POSIX shell and the PATH on which its tools are: the system's, or nothing but busybox."""
    if request.param == "sh":
        return ["/bin/sh"], os.environ["PATH"]
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    tools = tmp_path_factory.mktemp("busybox")
    subprocess.run([busybox, "--install", "-s", tools], check=True)
    return [str(tools / "sh")], str(tools)


@pytest.fixture
def shell(shell_argv: tuple[list[str], str]) -> Shell:
    """Runs a script with arguments as a helper container does, and waits."""
    argv, path = shell_argv

    def run(script: str, *arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None):  # type: ignore[no-untyped-def]
        return subprocess.run(
            [*argv, "-c", script, "fusemld", *arguments],
            capture_output=True,
            env={"PATH": path, **(env or {})},
            cwd=cwd,
            check=False,
        )

    return run


@pytest.fixture
def site(node: LocalCluster, role_kubeconfig: Path, namespace: str, tmp_path: Path) -> Site:
    """Executors have the rights of the example's Role."""
    return Site(role_kubeconfig, node.kubeconfig, namespace, tmp_path)
