"""What a new keeper does about the processes of one that was killed.

Only a parent learns how its child ended, so whatever ran cannot be carried on: it is killed, and lost.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from fusemld.executors.log_files import tail_of
from fusemld.executors.process.journal import Entry, Journal
from fusemld.executors.process.spawning import frozen, kill, signal_group, start_ticks
from fusemld.hooks.processes import ProcessEnded

_GONE_WITHIN_S = 5.0

HOST_WENT_DOWN = "the host went down while it ran"
KILLED = "the keeper of the processes went down while it ran, and what was left of it was killed"
UNOBSERVED = "the keeper of the processes went down while it ran, and nobody saw how it ended"
JOURNAL_LOST = "the keeper of the processes lost its journal while it ran, and what was left of it here was killed"
UNKNOWN_START = "the keeper of the processes went down while it was starting it, and nothing of it was found"


def settle(journal: Journal, boot: str, marker: str) -> list[ProcessEnded]:
    """Give every claim without an end one, after killing what is left of it."""
    unsettled = {key: entry for key, entry in journal.entries.items() if entry.ended is None}
    if not unsettled:
        return []
    same_boot = journal.opened is not None and journal.opened.boot == boot
    killed = _kill_survivors(unsettled, marker) if same_boot else frozenset()
    return [
        ProcessEnded(
            key=key,
            at=time.time(),
            lost=_reason(entry, same_boot, key in killed),
            tail=tail_of(entry.claimed.log),
        )
        for key, entry in unsettled.items()
    ]


def _reason(entry: Entry, same_boot: bool, killed: bool) -> str:
    if not same_boot:
        return HOST_WENT_DOWN
    if killed:
        return KILLED
    return UNKNOWN_START if entry.spawned is None else UNOBSERVED


def _kill_survivors(entries: Mapping[str, Entry], marker: str) -> frozenset[str]:
    """Kill until nothing is found any more (a process may fork between looks), and return whose they were."""
    killed: set[str] = set()
    deadline = time.monotonic() + _GONE_WITHIN_S
    while time.monotonic() < deadline:
        found = False
        for key, entry in entries.items():
            spawned = entry.spawned
            if spawned is not None and spawned.ticks and start_ticks(spawned.pid) == spawned.ticks:
                signal_group(spawned.pid, 9)
                killed.add(key)
                found = True
        for pid, key in frozen(marker, entries).items():
            if start_ticks(pid):
                kill(pid)
                killed.add(key)
                found = True
        if not found:
            break
        time.sleep(0.005)
    return frozenset(killed)
