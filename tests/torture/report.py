"""What a campaign did and found, in lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from tests.torture.assaults import POINTS
from tests.torture.verdict import Violation


class Report(msgspec.Struct, kw_only=True):
    """What was done and what was found."""

    seed: int
    kills: Counter[str] = msgspec.field(default_factory=Counter)
    stops: int = 0
    mishaps: Counter[str] = msgspec.field(default_factory=Counter)
    impossible: dict[str, str] = {}
    """Mishaps that cannot be brought about on this host, and why."""
    points: Counter[str] = msgspec.field(default_factory=Counter)
    """How often a process died at each fault point."""
    backups: int = 0
    deleted: int = 0
    """Applications."""
    runs: int = 0
    steps: int = 0
    attempts: int = 0
    started: int = 0
    lost_attempts: int = 0
    """Attempts that ended as lost, with that recorded as the reason of the next one: no broken promise."""
    given_up: int = 0
    """Steps that reached the bound of such repetitions."""
    no_room: int = 0
    """Steps whose own script found the disk full."""
    took_s: float = 0.0
    violations: list[Violation] = msgspec.field(default_factory=list)

    def count(self, what: str) -> int:
        return sum(violation.what == what for violation in self.violations)

    def lines(self) -> Iterator[str]:
        yield f"seed {self.seed}, {self.took_s:.0f} s, {self.stops} stops with SIGSTOP"
        yield f"killed: {', '.join(f'{victim} {count}' for victim, count in sorted(self.kills.items()))}"
        yield f"mishaps: {', '.join(f'{what} {count}' for what, count in sorted(self.mishaps.items())) or 'none'}"
        yield from (f"no {what} on this host: {why}" for what, why in sorted(self.impossible.items()))
        yield f"backups: {self.backups}; applications deleted: {self.deleted}"
        yield f"fault points hit: {len(self.points)} of {len(POINTS)}"
        yield (
            f"attempts recorded as lost: {self.lost_attempts}; steps given up for it: {self.given_up}; "
            f"steps that found the disk full: {self.no_room}"
        )
        columns = {
            "kills": self.kills.total(),
            "mishaps": self.mishaps.total(),
            "runs": self.runs,
            "steps": self.steps,
            "attempts": self.attempts,
            "started": self.started,
            "duplicates": self.count("duplicate"),
            "lost": self.count("lost"),
            "stuck": self.count("stuck"),
            "wrong": self.count("wrong"),
        }
        yield "  ".join(f"{name} {count}" for name, count in columns.items())
        yield from map(str, self.violations)
