"""Reads what an attempt leaves behind, its log and its outputs, before its pod goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import anyio
import anyio.to_thread

from fusemld.executors.kubernetes import results
from fusemld.executors.kubernetes.attempts import Attempt
from fusemld.executors.kubernetes.logs import Logs
from fusemld.executors.kubernetes.pod import STEP, sidecars
from fusemld.executors.kubernetes.results import Results
from fusemld.hooks.clusters import Json
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import ForbiddenError, FusemldError, InvalidInputError, NotFoundError, UnavailableError
from fusemld.model.run import Ending, Outcome

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0
_SIDECAR_SILENCE_S = 60.0
_MOST_BYTES = 16 * 1024 * 1024
_LARGE_BYTES = 256 * 1024
_UNREACHABLE_S = 5.0
_PASSING = (UnavailableError, ForbiddenError, NotFoundError)
"""An API server that has just started refuses everything, and a node whose kubelet has knows no pod, for a moment:
whether the pod is gone only the watch can tell."""
_GONE = "its pod was gone before that was read"
_UNKNOWN_MASKS = "what must be masked in it is not known any more"


class Collector:
    """`is_connected` says whether the API server is there: while it is not, nobody runs out of patience."""

    def __init__(
        self,
        cluster: Logs,
        pods: str,
        *,
        outputs_patience_s: float,
        is_connected: Callable[[], bool],
        log_patience_s: float = 20.0,
    ) -> None:
        self._cluster = cluster
        self._pods = pods
        self._log_patience_s = log_patience_s
        self._outputs_patience_s = outputs_patience_s
        self._is_connected = is_connected

    async def collect(
        self, attempt: Attempt, outcome: Outcome, note: Callable[[Attempt, str], None]
    ) -> tuple[Outcome, Mapping[str, str]]:
        """The outcome with the last lines of the log, which is complete then, and the outputs of a success. `note`
        is told what takes long."""
        if outcome.ending is not Ending.SUCCEEDED or not attempt.outputs:
            await self._finish_log(attempt, is_unreachable=outcome.ending is Ending.NODE_LOST)
            return _tailed(outcome, attempt), {}
        if attempt.small_output is not None:
            await self._finish_log(attempt)
            found = results.from_message(_termination_message(attempt.last), attempt.small_output)
        else:
            found = Results()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._finish_log, attempt, name=f"log {attempt.key}")
                found = await self._outputs(attempt, note)
        if attempt.patterns is None:
            found = Results(
                refused=dict.fromkeys(attempt.outputs, f"whether it holds a secret is not known: {_UNKNOWN_MASKS}")
            )
        outcome, outputs = results.conclude(outcome, found, attempt.patterns or ())
        return _tailed(outcome, attempt), outputs

    async def _finish_log(self, attempt: Attempt, *, is_unreachable: bool = False) -> None:
        log = attempt.log
        if not _has_run(attempt.last):
            return
        if attempt.patterns is None:
            log.open((), resumed=True)
            log.note(f"the log cannot be shown: {_UNKNOWN_MASKS}")
        else:
            if not log.is_open:
                log.open(attempt.patterns, resumed=attempt.is_adopted)
            why = await self._rest_of_log(attempt, is_unreachable=is_unreachable)
            if why:
                log.note(f"the log may not be complete: {why}")
        log.close()

    async def _rest_of_log(self, attempt: Attempt, *, is_unreachable: bool) -> str:
        """Why it could not be read; empty where it could."""
        if attempt.is_gone:
            return _GONE
        if not is_unreachable:
            return await self._patiently(attempt, partial(_read, attempt), self._log_patience_s)
        with anyio.move_on_after(_UNREACHABLE_S):
            return await self._patiently(attempt, partial(_read, attempt), 0.0)
        return "its node does not answer"

    async def _outputs(self, attempt: Attempt, note: Callable[[Attempt, str], None]) -> Results:
        parts: dict[str, Results] = dict.fromkeys(sidecars(attempt.outputs), Results())

        async def take(sidecar: str, names: Sequence[str]) -> None:
            parts[sidecar] = await self._part(attempt, sidecar, names, note)

        async with anyio.create_task_group() as tasks:
            for sidecar, names in sidecars(attempt.outputs).items():
                tasks.start_soon(take, sidecar, names, name=f"{sidecar} of {attempt.key}")
        return results.together(parts.values())

    async def _part(
        self, attempt: Attempt, sidecar: str, names: Sequence[str], note: Callable[[Attempt, str], None]
    ) -> Results:
        found = Results(damage="nothing was handed over")

        async def read() -> None:
            nonlocal found
            try:
                found = await _parsed(await self._handed_over(attempt, sidecar), names)
            except _PASSING as error:
                note(attempt, f"its outputs cannot be read yet: {error}")
                raise
            if not found.is_complete and not attempt.is_gone and not _has_ended(attempt.last, sidecar):
                raise UnavailableError(f"cannot read the outputs of {attempt.key}: {found.damage}")

        why = await self._patiently(attempt, read, self._outputs_patience_s)
        return Results(damage=why) if why else found

    async def _handed_over(self, attempt: Attempt, sidecar: str) -> bytes:
        """The log of a sidecar, until it says that this is all."""
        path = f"{self._pods}/{attempt.name}/log"
        params = {"container": sidecar, "follow": "true"}
        data = bytearray()
        async with self._cluster.logs(path, params=params, silence_s=_SIDECAR_SILENCE_S) as chunks:
            async for chunk in chunks:
                data += chunk
                if data.endswith(results.COMPLETE) or len(data) > _MOST_BYTES:
                    break
        return bytes(data)

    async def _patiently(self, attempt: Attempt, read: Callable[[], Awaitable[None]], patience_s: float) -> str:
        """Why it could not be done; empty where it could."""
        tries = 0
        spent_s = 0.0
        while True:
            began = anyio.current_time()
            try:
                await read()
            except _PASSING as error:
                why = _GONE if attempt.is_gone and isinstance(error, NotFoundError) else str(error)
            except FusemldError as error:
                return str(error)
            else:
                return ""
            if attempt.is_gone:
                return why
            tries += 1
            await anyio.sleep(backoff_s(tries, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))
            if self._is_connected():
                spent_s += anyio.current_time() - began
                if spent_s >= patience_s:
                    return why


async def _parsed(log: bytes, names: Sequence[str]) -> Results:
    if len(log) < _LARGE_BYTES:
        return results.parse(log, names)
    return await anyio.to_thread.run_sync(results.parse, log, names)


async def _read(attempt: Attempt) -> None:
    try:
        await attempt.log.read()
    except InvalidInputError:
        # Its container was never started, though kubelet says that it has ended: the pod was deleted early.
        return


def _tailed(outcome: Outcome, attempt: Attempt) -> Outcome:
    tail = attempt.log.tail
    if not tail:
        return outcome
    return Outcome(ending=outcome.ending, message=outcome.message, exit_status=outcome.exit_status, tail=tail)


def _termination_message(pod: Json | None) -> str:
    terminated = _terminated(pod, STEP)
    return str(terminated.get("message") or "") if terminated else ""


def _has_ended(pod: Json | None, container: str) -> bool:
    return _terminated(pod, container) is not None


def _has_run(pod: Json | None) -> bool:
    state = _state(pod, STEP)
    return "running" in state or "terminated" in state


def _terminated(pod: Json | None, container: str) -> Json | None:
    found: Json | None = _state(pod, container).get("terminated")
    return found


def _state(pod: Json | None, container: str) -> Json:
    status = (pod or {}).get("status") or {}
    for one in (*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())):
        if one.get("name") == container:
            return one.get("state") or {}
    return {}
