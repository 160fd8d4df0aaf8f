"""Hides the secrets of a step in lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from fusemld.executors.masking import encoded, holds_any, masked, needles


class Mask:
    """What `add` was given is hidden from then on, as it is in the logs of processes."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: set[str] = set(secrets)
        self._patterns = needles(map(encoded, self._secrets))

    def add(self, secrets: Iterable[str]) -> None:
        new = set(secrets) - self._secrets
        if not new:
            return
        self._secrets |= new
        self._patterns = needles(map(encoded, self._secrets))

    def hides(self, text: str) -> bool:
        """Whether the text holds a secret."""
        return holds_any(encoded(text), self._patterns)

    def __call__(self, text: str) -> str:
        return masked(text, self._patterns)
