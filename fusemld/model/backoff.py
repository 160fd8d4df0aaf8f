"""How long to wait before trying again."""

from __future__ import annotations

_LARGEST_EXPONENT = 60  # keeps 2**n within a float; every backoff has long met its maximum by then


def backoff_s(tries: int, first_s: float, longest_s: float) -> float:
    """`first_s`, then twice as long each time, at most `longest_s`; `tries` counts from 1."""
    return float(min(first_s * 2.0 ** min(tries - 1, _LARGEST_EXPONENT), longest_s))
