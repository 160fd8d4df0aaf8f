"""Generated credentials of services, in files that only the daemon's user can read."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import msgspec

from fusemld.model.errors import StartError

FILE = "credentials.json"


def read_credentials(folder: Path) -> dict[str, str]:
    """What was generated for the service of that folder so far."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError) as error:
        raise StartError(f"cannot read {folder / FILE}: {type(error).__name__}") from None


def ensure_credentials(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """A value for every name, generated where there is none. The file has mode 0600 from its first instant."""
    known = read_credentials(folder)
    missing = [name for name in names if name not in known]
    if missing:
        known |= {name: secrets.token_hex(20) for name in missing}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = folder / f".{FILE}"
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a path has no descriptor
            file.write(msgspec.json.encode(known))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / FILE)
    return known
