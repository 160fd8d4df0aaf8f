"""Hides secrets in a stream of bytes, also those that arrive in pieces."""

from __future__ import annotations

import base64
import json
import math
import urllib.parse
from collections.abc import Iterable

MASK = b"***"
HOLDS_CREDENTIAL = (
    "it holds a value from credentials; one that is no secret, such as the name of a user, belongs to the "
    "'configuration' of its service"
)
"""Why an output is refused."""
_SHORTEST_PIECE = 4
"""Shorter lines of a secret (`}`, an empty line) say nothing and are everywhere."""
_SHORTEST_ENCODED = 6


def needles(secrets: Iterable[bytes]) -> tuple[bytes, ...]:
    """What to look for: the secrets, the lines of those with several, and their usual encodings."""
    found: set[bytes] = set()
    for secret in secrets:
        stripped = secret.strip(b"\r\n")
        if not stripped:
            continue
        lines = {line for line in map(bytes.strip, stripped.splitlines()) if len(line) >= _SHORTEST_PIECE}
        for piece in (stripped, *lines):
            found.add(piece)
            found.update(_quoted_forms(piece))
        if len(stripped) >= _SHORTEST_ENCODED:
            found.update(_base64_forms(stripped))
    return tuple(sorted(found))


def holds_any(data: bytes, patterns: Iterable[bytes]) -> bool:
    return any(pattern in data for pattern in patterns)


def masked(text: str, patterns: tuple[bytes, ...]) -> str:
    """A text that can be shown."""
    if not patterns or not text:
        return text
    masker = Masker(patterns)
    return (masker.feed(encoded(text)) + masker.finish()).decode("utf-8", "surrogateescape")


def encoded(text: str) -> bytes:
    """Bytes that were no UTF-8 come back as they were; other surrogates, for which no bytes stand, as `?`."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _quoted_forms(secret: bytes) -> Iterable[bytes]:
    """What it looks like in an URL, in JSON and where a Python program shows a text."""
    yield urllib.parse.quote_from_bytes(secret, safe="").encode()
    yield urllib.parse.quote_from_bytes(secret).encode()
    text = secret.decode("utf-8", "surrogateescape")
    yield json.dumps(text)[1:-1].encode()
    yield json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")
    yield repr(text)[1:-1].encode("utf-8", "surrogateescape")


def _base64_forms(secret: bytes) -> Iterable[bytes]:
    """The characters that the secret alone decides, at each of the three offsets it may have in what was
    encoded (a name in front of a password, for instance)."""
    for offset in range(3):
        first = math.ceil(offset * 8 / 6)
        last = (offset + len(secret)) * 8 // 6
        encoded = base64.b64encode(bytes(offset) + secret)[first:last]
        yield encoded
        yield encoded.translate(bytes.maketrans(b"+/", b"-_"))


class Masker:
    """Feed it the stream; what it returns can be shown. Overlapping secrets give one mask.

    Only bytes that may be the beginning of a secret are held back, fewer than the longest one has.
    """

    def __init__(self, patterns: tuple[bytes, ...]) -> None:
        self._patterns = patterns
        self._held = b""
        self._covered = 0
        """That many of the held bytes belong to a secret whose mask was returned already."""

    @property
    def holds_back(self) -> bool:
        return bool(self._held)

    def feed(self, data: bytes) -> bytes:
        if not self._patterns:
            return data
        data = self._held + data
        return self._mask(data, self._open_end(data))

    def finish(self) -> bytes:
        """The stream is over: what was held back."""
        return self._mask(self._held, len(self._held)) if self._patterns else b""

    def _open_end(self, data: bytes) -> int:
        """Where the earliest beginning of a secret lies that the end of the data cuts off."""
        end = len(data)
        earliest = end
        for pattern in self._patterns:
            start = max(0, end - len(pattern) + 1)
            while (start := data.find(pattern[:1], start, earliest)) >= 0:
                if pattern.startswith(data[start:]):
                    earliest = start
                    break
                start += 1
        return earliest

    def _mask(self, data: bytes, cut: int) -> bytes:
        shown: list[bytes] = []
        position = 0
        for start, end in self._secret_spans(data):
            if start >= max(cut, 1):
                break
            if start > 0 or not self._covered:
                shown += (data[position:start], MASK)
            position = end
        shown.append(data[position:cut])
        self._held = data[cut:]
        self._covered = max(0, position - cut)
        return b"".join(shown)

    def _secret_spans(self, data: bytes) -> list[tuple[int, int]]:
        spans = [(0, self._covered)] if self._covered else []
        for pattern in self._patterns:
            start = data.find(pattern)
            while start >= 0:
                spans.append((start, start + len(pattern)))
                start = data.find(pattern, start + 1)
        if len(spans) < 2:
            return spans
        spans.sort()
        merged = [spans[0]]
        for start, end in spans[1:]:
            last_start, last_end = merged[-1]
            if start < last_end:
                merged[-1] = (last_start, max(last_end, end))
            else:
                merged.append((start, end))
        return merged
