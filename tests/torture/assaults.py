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


class What(enum.StrEnum):
    """What goes wrong with the host: see `tests.acceptance.mishaps`."""

    FULL_DISK = "full disk"
    UNWRITABLE = "unwritable database"
    FEW_DESCRIPTORS = "no descriptors"
    SET_CLOCK = "clock set"
    SLOW_DISK = "slow disk"
    LOST_EVENTS = "lost events"
    HOST_DOWN = "host down"
    LOST_JOURNAL = "lost journal"


class Mishap(msgspec.Struct, frozen=True, kw_only=True):
    """It lasts `for_s`, if it lasts at all; `victim` is killed in its middle. `days` is by how much the clock is
    wrong from then on, `spare` how many descriptors are left, `sync_s` how long a sync takes."""

    what: What
    after_s: float
    for_s: float
    victim: Victim | None = None
    days: float = 0.0
    spare: int = 0
    sync_s: float = 0.0


Assault = Kill | Fault | Stop | Mishap

OCCASIONAL = ("backup.copied", "codesets.copied", "executor.booted", "keeper.compacted")
"""Points that no run needs to pass, and that a campaign comes by all the same."""
POINTS = (*faults.POINTS, *faults.SERVING_POINTS, *OCCASIONAL)
"""Those of a campaign."""
_RARE = frozenset({"folder.noticed", "folder.stored", "performer.pinned", "steering.started", "steering.ended"})
"""Points that one of a few runs reaches."""
_FIRST_OR_UPDATE = frozenset({"service.recorded", "service.spawned", "service.ready"})
"""Points that every run with a service reaches twice."""


def plan(kills: int, chance: random.Random) -> Iterator[Assault]:
    """So many killings, by turns at a fault point (each one in turn) and at a random moment; between them stops,
    and mishaps (each one in turn)."""
    victims = list(Victim)
    mishaps = list(What)
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
            point = POINTS[turn % len(POINTS)]
            yield Fault(point=point, count=chance.choice(_counts(point)), down_s=down_s)
        if number % 6 == 5:
            victim = chance.choice((Victim.DAEMON, Victim.KEEPER, Victim.BOTH))
            yield Stop(victim=victim, after_s=chance.uniform(0, 0.5), for_s=chance.uniform(0.2, 1.5))
        if number % 4 == 1:
            yield Mishap(
                what=mishaps[number // 4 % len(mishaps)],
                after_s=chance.uniform(0, 0.5),
                for_s=chance.uniform(0.5, 3.0),
                victim=chance.choice((None, None, *Victim)),
                days=chance.choice((-3, -1, 0, 1, 3)),
                spare=chance.choice((0, 0, 1, 2)),
                sync_s=chance.choice((0.1, 0.3)),
            )


def _counts(point: str) -> tuple[int, ...]:
    """At once, the recovery itself is interrupted; late in a life the state is richer."""
    if point in _FIRST_OR_UPDATE:
        return (1, 2)
    return (1,) if point in _RARE or point not in faults.POINTS else (1, 2, 5)
