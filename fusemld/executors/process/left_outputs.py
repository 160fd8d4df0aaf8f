"""Reads the outputs that the keeper has left where they were written, one attempt after the other."""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import anyio
import structlog
from anyio.to_thread import run_sync
from msgspec.structs import replace

from fusemld.executors.process.collecting import read_left
from fusemld.executors.process.folders import attempt_folder
from fusemld.hooks.processes import ProcessEnded
from fusemld.model.run import AttemptKey, Ending, Outcome

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_AGAIN_S = 1.0

Judged = tuple[Outcome, Mapping[str, str]]


class _Unread(NamedTuple):
    key: AttemptKey
    event: ProcessEnded
    judge: Callable[[ProcessEnded], Judged]
    finish: Callable[[Outcome, Mapping[str, str]], None]


class LeftOutputs:
    """Nobody waits for that but the attempt itself. What cannot be read now is tried again after the others."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._unread: collections.deque[_Unread] = collections.deque()
        self._has_unread = anyio.Event()

    def add(
        self,
        key: AttemptKey,
        event: ProcessEnded,
        judge: Callable[[ProcessEnded], Judged],
        finish: Callable[[Outcome, Mapping[str, str]], None],
    ) -> None:
        """`judge` says, in a thread, what the end means with the outputs in it; `finish` hears that."""
        self._unread.append(_Unread(key, event, judge, finish))
        self._has_unread.set()

    async def run(self) -> None:
        while True:
            await self._has_unread.wait()
            self._has_unread = anyio.Event()
            while self._unread:
                unread = self._unread.popleft()
                try:
                    outcome, outputs = await run_sync(self._read, unread)
                except OSError as error:
                    _log.warning("attempt.outputs_not_read", key=str(unread.key), error=str(error))
                    self._unread.append(unread)
                    await anyio.sleep(_AGAIN_S)
                    continue
                except Exception as error:  # noqa: BLE001 - logged; it costs one attempt
                    _log.exception("attempt.outputs_not_read", key=str(unread.key))
                    message = f"its outputs cannot be read: an error of fusemld's own: {error!r}"
                    outcome, outputs = Outcome(ending=Ending.LOST, message=message), {}
                unread.finish(outcome, outputs)

    def _read(self, unread: _Unread) -> Judged:
        """Raises OSError for want of something that comes back."""
        event = unread.event
        outputs = read_left(attempt_folder(self._state, unread.key).results, event.left_outputs)
        if outputs is None:
            lost = "its outputs are not what they were when it ended"
            return unread.judge(replace(event, exit_status=None, lost=lost))
        return unread.judge(replace(event, outputs=outputs))
