"""What to mask in the logs of attempts that outlive the daemon.

The values are below the state folder, encrypted, and the key, which is used once, is an annotation of the
attempt's pod: neither says anything without the other, and when the pod is gone nobody can read them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from fusemld.model.errors import StartError, UnavailableError, may_pass

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

KEY_ANNOTATION: Final = "fusemld.io/mask-key"


class Masks:
    """`folder` is made when it is needed. Blocks on small files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, values: Iterable[bytes]) -> str:
        """The key with which `recall` gives the values. Raises `StartError`, `UnavailableError` for what may
        pass."""
        key = _fernet().generate_key()
        text = _fernet()(key).encrypt(msgspec.msgpack.encode(sorted(values)))
        path = self._path(name)
        replacement = path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
            replacement.rename(path)
        except OSError as error:
            problem = f"cannot remember what to mask in the log of pod {name}: {error}"
            raise (UnavailableError(problem) if may_pass(error) else StartError(problem)) from error
        return key.decode()

    def recall(self, name: str, key: str) -> frozenset[bytes] | None:
        """None where they are not known any more."""
        from cryptography.fernet import InvalidToken

        try:
            text = _fernet()(key).decrypt(self._path(name).read_bytes())
            return msgspec.msgpack.decode(text, type=frozenset[bytes])
        except (OSError, ValueError, InvalidToken):
            return None

    def drop(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.mask"


def _fernet() -> type[Fernet]:
    """Imported when it is needed: it takes a while, and only the extra brings it."""
    try:
        from cryptography.fernet import Fernet
    except ImportError as error:
        raise StartError(
            f"cannot run steps with secrets as pods: {error}; install the extra `kubernetes` (fusemld[kubernetes])"
        ) from error
    return Fernet
