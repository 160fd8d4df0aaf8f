"""Hides the secrets of a step in lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from fusemld.executors.masking import Masker, holds_any, needles


class Mask:
    """What `add` was given is hidden from then on, as it is in the logs of processes."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set(secrets)
        self._patterns = needles(map(_bytes, self._secrets))

    def add(self, secrets: Iterable[str]) -> None:
        self._secrets.update(secrets)
        self._patterns = needles(map(_bytes, self._secrets))

    def hides(self, text: str) -> bool:
        """Whether the text holds a secret."""
        return holds_any(_bytes(text), self._patterns)

    def __call__(self, text: str) -> str:
        if not self._patterns:
            return text
        masker = Masker(self._patterns)
        return (masker.feed(_bytes(text)) + masker.finish()).decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    """Bytes that were no UTF-8 come back as they were; other surrogates, for which no bytes stand, as `?`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")
