"""What the campaign does to the daemon and its keeper, in an order that a seed repeats."""

from __future__ import annotations

import enum
import random
from collections.abc import Iterator

import msgspec

from fusemld.model import faults


class Victim(enum.StrEnum):
    """`everything`: daemon, keeper and the processes of all steps, as when the host goes down."""

    DAEMON = "daemon"
    KEEPER = "keeper"
    BOTH = "both"
    EVERYTHING = "everything"


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """SIGKILL at a random moment. Where `frozen_s` is not 0, the keeper is stopped a moment before and goes on so
    long after the next start: it then hears from two daemons at once."""

    victim: Victim
    after_s: float
    down_s: float
    frozen_s: float = 0.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """The process that reaches the point for the `count`-th time dies there."""

    point: str
    count: int
    down_s: float


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """SIGSTOP for a while: no kill, but what comes late is tested by it."""

    victim: Victim
    after_s: float
    for_s: float


Assault = Kill | Fault | Stop

_RARE = frozenset({"folder.noticed", "folder.stored", "performer.pinned", "steering.started", "steering.ended"})
"""Points that one of a few runs reaches."""


def plan(kills: int, chance: random.Random) -> Iterator[Assault]:
    """So many killings, by turns at a fault point (each one in turn) and at a random moment; stops between."""
    points = list(faults.POINTS)
    victims = list(Victim)
    for number in range(kills):
        turn, is_random = divmod(number, 2)
        down_s = chance.choice((0.0, 0.0, 0.1, 0.5))
        if is_random:
            victim = victims[turn % len(victims)]
            yield Kill(
                victim=victim,
                after_s=chance.choice((0.1, 0.5, 1.0, 2.0)) * chance.random(),
                down_s=down_s,
                frozen_s=chance.choice((0.0, 0.3, 1.0)) if victim is Victim.DAEMON else 0.0,
            )
        else:
            point = points[turn % len(points)]
            # At once, the recovery itself is interrupted; late in a life the state is richer.
            count = 1 if point in _RARE else chance.choice((1, 2, 5))
            yield Fault(point=point, count=count, down_s=down_s)
        if number % 6 == 5:
            victim = chance.choice((Victim.DAEMON, Victim.KEEPER, Victim.BOTH))
            yield Stop(victim=victim, after_s=chance.uniform(0, 0.5), for_s=chance.uniform(0.2, 1.5))
