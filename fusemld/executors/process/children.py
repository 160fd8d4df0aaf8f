"""What the keeper has in memory of a process group that it started."""

from __future__ import annotations

import os

import msgspec

from fusemld.executors.process.bounds import Bound
from fusemld.executors.process.collecting import Collected, Collector
from fusemld.executors.process.groups import Group
from fusemld.executors.process.pump import Pump
from fusemld.hooks.processes import ProcessEnded


class Child(msgspec.Struct, kw_only=True):
    """`status` is the leader's, once reaped (as of `waitpid`)."""

    key: str
    pid: int
    pump: Pump
    patterns: tuple[bytes, ...]
    results: bytes
    outputs: tuple[str, ...]
    output_limit_bytes: int
    all_outputs_limit_bytes: int
    told_outputs_bytes: int
    bound: Bound | None
    status: int | None = None
    killed: bool = False
    kill_at: float | None = None
    drain_until: float | None = None
    swept: bool = False
    collector: Collector | None = None
    """Reads its outputs, once nothing of it is left."""
    lost: str = ""
    """Why the keeper has killed it, where it could not watch over it."""

    @property
    def group(self) -> Group | None:
        """The control group that only it and what it has started are in, where there is one."""
        return None if self.bound is None else self.bound.group

    def ended(self, at: float, collected: Collected) -> ProcessEnded:
        """How it ended, which the leader's status says if nothing went wrong with it here."""
        code = os.waitstatus_to_exitcode(self.status or 0)
        return ProcessEnded(
            key=self.key,
            at=at,
            exit_status=code if code >= 0 and not self.lost else None,
            signal=-code if code < 0 and not self.lost else None,
            lost=self.lost or None,
            killed=self.killed,
            outputs=collected.outputs,
            left_outputs=collected.left,
            refused_outputs=collected.refused,
            tail=self.pump.tail,
            reached_limit="" if self.bound is None else self.bound.reached,
        )
