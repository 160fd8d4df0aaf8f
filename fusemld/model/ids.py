"""Identifiers of runs and of folders."""

from __future__ import annotations

import os
import re
import secrets
from datetime import UTC, datetime

RANDOM_BYTES = 4
"""How many random bytes an id takes."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_NAME_LENGTH = 17


def run_id(workflow: str, now: float, random: bytes | None = None) -> str:
    """`mlflow-e2e-261123-081502-fgk3f9x2`: the workflow, the time (UTC), and what tells those of one second apart.

    At most 40 characters, a valid DNS label. Within a century, ids of one workflow sort by time down to the
    millisecond; those of one millisecond differ by the 30 bits of `random` that they take (None: the system's).
    """
    random = secrets.token_bytes(RANDOM_BYTES) if random is None else random
    if len(random) < RANDOM_BYTES:
        raise ValueError(f"a run id takes {RANDOM_BYTES} random bytes")
    name = re.sub(r"[^a-z0-9]+", "-", workflow.lower())[:_NAME_LENGTH].strip("-") or "run"
    moment = datetime.fromtimestamp(now, UTC)
    fraction = moment.microsecond * 1024 // 1_000_000
    unique = fraction << 30 | int.from_bytes(random[:RANDOM_BYTES]) >> 2
    letters = "".join(_ALPHABET[unique >> shift & 31] for shift in range(35, -1, -5))
    return f"{name}-{moment:%y%m%d-%H%M%S}-{letters}"


def identity_of(state: os.stat_result) -> str:
    """Tells a folder from another one of the same name: `DEVICE:INODE`."""
    return f"{state.st_dev}:{state.st_ino}"
