"""What to mask in the logs of attempts that outlive the daemon.

The values are below the state folder, encrypted, and the key, which is used once, is an annotation of the
attempt's pod: neither says anything without the other, and when the pod is gone nobody can read them again.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

KEY_ANNOTATION: Final = "fusemld.io/mask-key"
_CHECK_BYTES = 32


class Masks:
    """`folder` is made when it is needed. Blocks on small files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, values: Iterable[bytes]) -> str:
        """The key with which `recall` gives the values."""
        key = secrets.token_bytes(32)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(name)
        replacement = path.with_suffix(".new")
        descriptor = os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            plain = msgspec.msgpack.encode(sorted(values))
            file.write(_crypt(key, hashlib.sha256(plain).digest() + plain))
        replacement.rename(path)
        return key.hex()

    def recall(self, name: str, key: str) -> frozenset[bytes] | None:
        """None where they are not known any more."""
        try:
            text = _crypt(bytes.fromhex(key), self._path(name).read_bytes())
            check, plain = text[:_CHECK_BYTES], text[_CHECK_BYTES:]
            if hashlib.sha256(plain).digest() != check:
                return None
            return msgspec.msgpack.decode(plain, type=frozenset[bytes])
        except (OSError, ValueError):
            return None

    def drop(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def drop_all_but(self, names: Iterable[str]) -> None:
        kept = {self._path(name).name for name in names}
        for path in self._folder.glob("*"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.mask"


def _crypt(key: bytes, data: bytes) -> bytes:
    """A stream cipher, its own inverse: a key is for one text only."""
    stream = hashlib.shake_256(key).digest(len(data))
    return (int.from_bytes(data) ^ int.from_bytes(stream)).to_bytes(len(data))
