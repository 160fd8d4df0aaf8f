"""The environment variables that processes of the daemon's own start with: few, and none by accident."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fusemld.hooks.building import network_environment

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


def minimal_environment(folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """PATH, LANG, HOME and TMPDIR (in the folder), and what the host says about proxies and certificates.

    Loopback is never reached through a proxy. Python may write its bytecode: some services start ten times
    faster with it.
    """
    network = {k: v for k, v in network_environment(environ).items() if not k.startswith("UV_") and k != "NETRC"}
    for name in ("no_proxy", "NO_PROXY"):
        given = [entry for entry in network.get(name, "").split(",") if entry]
        network[name] = ",".join([*given, *(entry for entry in _LOOPBACK_NAMES if entry not in given)])
    return network | {
        "PATH": environ.get("PATH", os.defpath),
        "LANG": environ.get("LANG", "C.UTF-8"),
        "HOME": str(folder),
        "TMPDIR": str(folder / "tmp"),
    }
