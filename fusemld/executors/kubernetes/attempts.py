"""What is in memory of an attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import anyio

from fusemld.executors.kubernetes.bundles import Bundle
from fusemld.executors.kubernetes.logs import AttemptLog
from fusemld.hooks.clusters import Json, Refusals
from fusemld.model.run import AttemptKey


class Attempt:
    """`name` is that of its pod and Secret.

    `pod` is its latest state and None where there is none, `last` how it was last seen. `patterns` are what must
    be masked, None where that is not known any more.
    """

    __slots__ = (
        "alarm",
        "bundles",
        "collecting",
        "creates_unknown",
        "events",
        "follower",
        "has_left",
        "has_secret",
        "held",
        "is_adopted",
        "is_creating",
        "is_ending",
        "is_gone",
        "is_reported",
        "is_secret_there",
        "is_started",
        "is_stopping",
        "key",
        "last",
        "log",
        "mask_key",
        "name",
        "note",
        "outputs",
        "patterns",
        "pod",
        "refusals",
        "seen_running_at",
        "small_output",
        "uid",
    )

    def __init__(
        self,
        key: AttemptKey,
        name: str,
        log: AttemptLog,
        outputs: tuple[str, ...],
    ) -> None:
        self.key = key
        self.name = name
        self.log = log
        self.outputs = outputs
        self.patterns: tuple[bytes, ...] | None = ()
        self.small_output: str | None = None
        self.bundles: Mapping[str, Bundle] | None = None
        """Of its codesets, once they are in the cluster."""
        self.held: tuple[str, ...] = ()
        """The ConfigMaps that it uses."""
        self.mask_key = ""
        self.has_secret = False
        """A Secret of its name may exist."""
        self.uid: str | None = None
        self.pod: Json | None = None
        self.last: Json | None = None
        self.events: dict[str, Json] = {}
        """Warnings about its pod, by their names."""
        self.is_adopted = False
        """An earlier daemon launched it."""
        self.creates_unknown = False
        """A create was sent and nobody knows what became of it."""
        self.refusals = Refusals()
        """To create what it needs."""
        self.is_creating = False
        """A request to create its Secret or pod is under way."""
        self.is_secret_there = False
        self.is_gone = False
        """Its pod was there and is not any more."""
        self.has_left = False
        """It is gone from what is watched, and nobody had it deleted: its labels may have been taken away."""
        self.is_started = False
        self.is_stopping = False
        """We asked for its end."""
        self.is_ending = False
        """Its end is known, and what it left behind is being read or was."""
        self.is_reported = False
        self.note = ""
        self.seen_running_at: float | None = None
        self.alarm: asyncio.TimerHandle | None = None
        self.collecting = anyio.CancelScope()
        """Reading what it left behind."""
        self.follower: anyio.CancelScope | None = None

    @property
    def is_over(self) -> bool:
        return self.is_ending or self.is_reported

    @property
    def warnings(self) -> list[Json]:
        """The events about its pod, and not about an earlier one of its name."""
        return [event for event in self.events.values() if event["involvedObject"].get("uid") == self.uid]

    def quiet(self) -> None:
        """Nothing happens by itself any more."""
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None
        if self.follower is not None:
            self.follower.cancel()
            self.follower = None
