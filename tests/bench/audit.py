"""What clients have asked of an API server, from its own audit log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.daemon import seconds

QUIET_S = 1.5
"""The log is written in batches; after so long without a line nothing more comes."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Times are seconds since the epoch: when it came, and when its answer was complete."""

    user: str
    verb: str
    resource: str
    name: str
    code: int
    came_at: float
    answered_at: float


class AuditLog:
    """`since_last` gives every request once."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def since_last(self) -> list[Asked]:
        """All requests up to now, those under way left out; waits until the log is quiet."""
        size = -1
        while size != (size := self._file.stat().st_size if self._file.exists() else 0):
            time.sleep(QUIET_S)
        with self._file.open("rb") as log:
            log.seek(self._offset)
            lines = log.read(size - self._offset).splitlines()
        self._offset = size
        return list(_asked(msgspec.json.decode(line) for line in lines))


def counts(asked: list[Asked], user: str) -> Counter[str]:
    """Requests by verb and resource; a watch and a log that is followed count when they begin."""
    return Counter(f"{each.verb} {each.resource}" for each in asked if each.user == user)


def _asked(events: Iterator[dict[str, Any]]) -> Iterator[Asked]:
    begun: set[str] = set()
    for event in events:
        if event["stage"] == "ResponseStarted":
            begun.add(event["auditID"])
        elif event["auditID"] in begun:
            continue
        target = event.get("objectRef", {})
        resource = "/".join(
            filter(None, (target.get("resource", event["requestURI"]), target.get("subresource", "")))
        )
        yield Asked(
            user=event["user"]["username"],
            verb=event["verb"],
            resource=resource,
            name=target.get("name", ""),
            code=event.get("responseStatus", {}).get("code", 0),
            came_at=seconds(event["requestReceivedTimestamp"]),
            answered_at=seconds(event["stageTimestamp"]),
        )
