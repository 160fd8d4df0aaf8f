"""What the process executor is told about this host."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec


class ProcessExecutorSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`state` is the daemon's state folder; attempts get theirs below `attempts`, logs go below `logs`.

    `images` maps an image (with tag, or without: any tag) to the command that stands for its entrypoint;
    `default_command` is for images and steps that name none. `hidden` are folders that a step in a sandbox
    must not see, besides the state folder (the one with the daemon's socket). `pass_env` are variables of the
    daemon that every step gets.
    """

    state: Path
    images: dict[str, tuple[str, ...]] = {}
    default_command: tuple[str, ...] = ()
    sandbox: Literal["auto", "bwrap", "off"] = "auto"
    hidden: tuple[Path, ...] = ()
    pass_env: tuple[str, ...] = ()
    zone: str = "local"
    log_limit_bytes: int = 64 * 1024 * 1024
    process_limit: int = 0
