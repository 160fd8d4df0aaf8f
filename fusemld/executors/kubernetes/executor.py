"""The executor that runs attempts as pods."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVarTuple

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus
from msgspec.structs import replace

from fusemld.executors.kubernetes import names
from fusemld.executors.kubernetes.attempts import Attempt
from fusemld.executors.kubernetes.bundles import used_by
from fusemld.executors.kubernetes.collecting import Collector
from fusemld.executors.kubernetes.creating import Creator, masked_values
from fusemld.executors.kubernetes.delivery import Delivery
from fusemld.executors.kubernetes.diagnosis import Patience, Phase, diagnose
from fusemld.executors.kubernetes.logs import AttemptLog
from fusemld.executors.kubernetes.masks import KEY_ANNOTATION, Masks
from fusemld.executors.kubernetes.pod import STEP, has_secret, small_output
from fusemld.executors.kubernetes.removing import Removal, Remover
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.executors.kubernetes.sweeping import insist, sweep_secrets
from fusemld.executors.masking import masked, needles
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import AttemptFinished, AttemptNoted, AttemptStarted, Condition, Launch, Report
from fusemld.kube.client import KubeCluster
from fusemld.kube.reflector import Reflector
from fusemld.model import faults
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import FusemldError, StartError
from fusemld.model.run import AttemptKey, Ending, Outcome

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

Ts = TypeVarTuple("Ts")

_FOLLOW_AFTER_S = 0.5
"""A step that runs longer has its log followed; the log of a shorter one is read once, at its end."""
_LONGEST_SLEEP_S = 60.0
"""The wall clock may jump: no look is put off for longer."""
_UPKEEP_EVERY_S = 300.0
_STOPPED_COLLECTING = "it was told to stop while its log and outputs were being read"
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class KubernetesExecutor:
    """An `Executor`. `run` is ready after the first complete list of pods, however long the API server is away.

    Every pod of this instance is an attempt that the daemon has not forgotten, or goes.
    """

    name = "kubernetes"

    def __init__(
        self,
        cluster: KubeCluster,
        settings: KubernetesSettings,
        *,
        state: Path,
        log_limit_bytes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.zone = settings.zone
        self._cluster = cluster
        self._settings = settings
        self._state = state
        self._log_limit_bytes = log_limit_bytes
        self._clock = clock
        self._instance = cluster.instance
        self._namespace = f"/api/v1/namespaces/{cluster.namespace}"
        self._pods = f"{self._namespace}/pods"
        self._patience = Patience.of(settings)
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._by_name: dict[str, Attempt] = {}
        self._expected: set[AttemptKey] = set()
        """Launched by an earlier daemon, and no pod of theirs was found."""
        self._is_recovered = False
        self._trouble = "the pods have not been listed yet"
        self._report: Report | None = None
        self._tasks: TaskGroup | None = None
        self._files = state / "kubernetes"
        """Of every attempt what is remembered for the next daemon, in files that begin with the pod's name."""
        self._masks = Masks(self._files)
        self._delivery = Delivery(cluster, settings.codeset_limit_bytes)
        self._creator = Creator(cluster, settings, self._delivery, self._masks)
        self._remover = Remover(cluster, self._stays_for_s)
        self._reflector = Reflector(
            cluster,
            self._pods,
            {"labelSelector": names.attempts_selector(self._instance)},
            self._pod_changed,
            silence_s=settings.watch_silence_s,
            relist_s=settings.relist_s,
        )
        self._events = Reflector(
            cluster,
            f"{self._namespace}/events",
            {"fieldSelector": "type=Warning,involvedObject.kind=Pod"},
            self._warned,
            silence_s=settings.watch_silence_s,
            relist_s=settings.relist_s,
        )
        self._collector = Collector(
            cluster,
            self._pods,
            outputs_patience_s=settings.node_lost_after_s,
            is_connected=lambda: self._reflector.is_connected,
        )

    async def run(self, report: Report, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        self._report = report
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            await tasks.start(self._remover.run, name="remover")
            try:
                await tasks.start(self._watch_pods, name="pods")
                self._trouble = ""
                _log.info("executor.ready", executor=self.name, cluster=self._cluster.name)
                tasks.start_soon(self._watch_events, name="events of pods")
                tasks.start_soon(self._upkeep, name="codesets in the cluster")
                task_status.started()
                await anyio.sleep_forever()
            finally:
                for attempt in self._attempts.values():
                    attempt.quiet()
                    attempt.log.suspend()

    async def launch(self, launch: Launch) -> None:
        attempt = self._attempts.get(launch.key)
        if attempt is None:
            attempt = self._new(launch)
            if launch.recovered:
                # Nobody can know whether it ran, and it must not run twice.
                attempt.has_secret = True
                self._end(attempt, Outcome(ending=Ending.LOST, message="no pod of it was found after a restart"))
        if attempt.is_over or attempt.pod is not None or attempt.is_gone:
            return
        if not attempt.is_stopping:
            await self._create(attempt, launch)
        if attempt.is_stopping:
            await self._stop(attempt, 0)

    async def recover(self, keys: Sequence[AttemptKey]) -> frozenset[AttemptKey]:
        wanted = frozenset(keys)
        self._expected = set(wanted)
        self._is_recovered = True
        for found in list(self._reflector.objects.values()):
            self._meet(found)
        self._remove_files_but({names.pod_name(key, self._instance) for key in wanted})
        self._start(self._sweep, wanted, name="sweep")
        return wanted & self._attempts.keys()

    async def kill(self, key: AttemptKey, grace_s: float) -> None:
        attempt = self._attempts.get(key)
        if attempt is None or attempt.is_reported:
            return
        attempt.is_stopping = True
        if attempt.collecting is not None:
            attempt.collecting.cancel()
        else:
            await self._stop(attempt, grace_s)

    async def forget(self, key: AttemptKey) -> None:
        attempt = self._attempts.pop(key, None)
        if attempt is None:
            if key in self._expected:
                self._expected.discard(key)
                self._remover.add(Removal(name=names.pod_name(key, self._instance), secret=True))
            return
        del self._by_name[attempt.name]
        attempt.quiet()
        self._delivery.release(attempt.held)
        attempt.log.forget()
        if attempt.mask_key:
            self._masks.drop(attempt.name)
        found = attempt.pod or self._reflector.objects.get(attempt.name)
        if found is not None:
            self._remover.dismiss(found, secret=attempt.has_secret)
        elif attempt.has_secret or attempt.creates_unknown:
            self._remover.add(
                Removal(
                    name=attempt.name,
                    secret=attempt.has_secret,
                    pod=attempt.creates_unknown and not attempt.is_gone,
                    is_ours=lambda pod: names.is_ours(pod, key, self._instance),
                )
            )

    def condition(self) -> Condition:
        trouble = self._trouble or self._reflector.trouble
        age_s = self._reflector.age_s()
        is_ok = not trouble and age_s <= self._settings.watch_silence_s
        words = f"the pods of {self._cluster.name} were heard of {age_s:.0f} s ago" if math.isfinite(age_s) else ""
        return Condition(ok=is_ok, message="; ".join(filter(None, (words, trouble))))

    def log_path(self, key: AttemptKey) -> Path:
        return Path(f"{self._state}/logs/{key.run}/{key.step}.{key.attempt}.log")

    async def _create(self, attempt: Attempt, launch: Launch) -> None:
        try:
            found = await self._creator.create(attempt, launch)
        except StartError:
            attempt.is_reported = True
            attempt.quiet()
            raise
        if attempt.pod is not None or attempt.is_gone:
            return
        if found is None:
            if not attempt.is_stopping:
                words = "its pod was there and is not any more"
                self._end(attempt, Outcome(ending=Ending.LOST, message=words))
            return
        attempt.pod = attempt.last = found
        attempt.uid = found["metadata"]["uid"]
        attempt.creates_unknown = False

    def _new(self, launch: Launch) -> Attempt:
        attempt = self._attempt(launch.key, launch.outputs)
        attempt.patterns = needles(masked_values(launch))
        if launch.small_output and len(launch.outputs) == 1:
            attempt.small_output = launch.outputs[0]
        return attempt

    def _attempt(self, key: AttemptKey, outputs: tuple[str, ...]) -> Attempt:
        self._expected.discard(key)
        name = names.pod_name(key, self._instance)
        log = AttemptLog(
            self._cluster,
            f"{self._pods}/{name}/log",
            STEP,
            self.log_path(key),
            self._files / f"{name}.position",
            limit_bytes=self._log_limit_bytes,
        )
        attempt = self._attempts[key] = self._by_name[name] = Attempt(key, name, log, outputs)
        return attempt

    def _tell(self, report: AttemptStarted | AttemptNoted | AttemptFinished) -> None:
        assert self._report is not None, "nothing happens before `run`"
        self._report(report)

    @property
    def _tasks_now(self) -> TaskGroup:
        assert self._tasks is not None, "nothing happens before `run`"
        return self._tasks

    def _start(self, work: Callable[[*Ts], Coroutine[Any, Any, None]], *args: *Ts, name: str) -> None:
        self._tasks_now.start_soon(work, *args, name=name)

    # What the cluster says

    def _pod_changed(self, old: Json | None, new: Json | None) -> None:
        found = new or old
        assert found is not None
        name = found["metadata"]["name"]
        if new is None:
            self._remover.gone(name)
        if not self._is_recovered:
            return
        attempt = self._by_name.get(name)
        if attempt is None:
            if new is not None:
                self._meet(new)
            return
        uid = found["metadata"]["uid"]
        if attempt.uid not in (None, uid):
            return
        if attempt.uid is None and not names.is_ours(found, attempt.key, self._instance):
            return
        attempt.uid = uid
        attempt.last = found
        attempt.pod = new
        attempt.is_gone = new is None
        self._look(attempt)

    def _meet(self, found: Json) -> None:
        """A pod of this instance that nobody here knows: it is adopted if its attempt is waited for, else it goes.
        One of another name (a copy that somebody made) is not ours, whatever its labels say."""
        name = found["metadata"]["name"]
        if name in self._by_name or name in self._remover.removing:
            return
        key = names.attempt_of(found)
        if key is None or name != names.pod_name(key, self._instance):
            return
        if key in self._expected:
            self._adopt(key, found)
        else:
            self._remover.dismiss(found, secret=has_secret(found))

    def _adopt(self, key: AttemptKey, found: Json) -> None:
        attempt = self._attempt(key, names.outputs_of(found))
        attempt.is_adopted = True
        attempt.uid = found["metadata"]["uid"]
        attempt.pod = attempt.last = found
        attempt.small_output = small_output(found)
        attempt.has_secret = has_secret(found)
        attempt.held = tuple(used_by(found))
        self._delivery.hold(attempt.held)
        attempt.mask_key = found["metadata"].get("annotations", {}).get(KEY_ANNOTATION, "")
        if attempt.mask_key:
            values = self._masks.recall(attempt.name, attempt.mask_key)
            attempt.patterns = None if values is None else needles(values)
        for event in self._events.objects.values():
            if event["involvedObject"].get("name") == attempt.name:
                attempt.events[event["metadata"]["name"]] = event
        self._look(attempt)

    def _warned(self, old: Json | None, new: Json | None) -> None:
        event = new or old
        assert event is not None
        attempt = self._by_name.get(event["involvedObject"].get("name", ""))
        if attempt is None or attempt.is_over:
            return
        if new is None:
            attempt.events.pop(event["metadata"]["name"], None)
            return
        attempt.events[event["metadata"]["name"]] = new
        if not attempt.is_started:
            self._look(attempt)

    def _look(self, attempt: Attempt) -> None:
        """Judge the attempt by what is known of it now. A pod that cannot be judged stops no other."""
        try:
            self._judge(attempt)
        except Exception:  # noqa: BLE001
            _log.exception("pod.not_judged", key=str(attempt.key))

    def _judge(self, attempt: Attempt) -> None:
        if attempt.alarm is not None:
            attempt.alarm.cancel()
            attempt.alarm = None
        if attempt.is_over or (attempt.pod is None and not attempt.is_gone):
            return
        now = self._clock()
        events = [event for event in attempt.events.values() if _is_about(event, attempt.uid)]
        seen = diagnose(attempt.pod, attempt.last, events, now, self._patience, stopping=attempt.is_stopping)
        if seen.started_at is not None and not attempt.is_started:
            attempt.is_started = True
            attempt.note = ""
            self._tell(AttemptStarted(key=attempt.key, at=now))
            faults.point("kubernetes.started")
        if seen.outcome is not None:
            self._end(attempt, seen.outcome)
            return
        if seen.note != attempt.note:
            attempt.note = seen.note
            self._tell(AttemptNoted(key=attempt.key, text=masked(seen.note, attempt.patterns or ())))
        wait_s = math.inf
        if seen.check_again_at is not None:
            wait_s = min(max(seen.check_again_at - now, 0.0), _LONGEST_SLEEP_S)
        if seen.phase is Phase.RUNNING and attempt.follower is None and attempt.patterns is not None:
            wait_s = min(wait_s, self._follow_when_due(attempt, now))
        if wait_s < math.inf:
            attempt.alarm = asyncio.get_running_loop().call_later(wait_s, self._look, attempt)

    def _follow_when_due(self, attempt: Attempt, now: float) -> float:
        """Seconds until the log is to be followed; infinite where it is from now on."""
        if attempt.seen_running_at is None:
            attempt.seen_running_at = now
        left_s = attempt.seen_running_at + _FOLLOW_AFTER_S - now
        if left_s > 0:
            return min(left_s, _FOLLOW_AFTER_S)
        attempt.follower = anyio.CancelScope()
        self._start(self._follow, attempt, attempt.follower, name=f"follow {attempt.key}")
        return math.inf

    async def _follow(self, attempt: Attempt, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                attempt.log.open(attempt.patterns or (), resumed=attempt.is_adopted)
                await attempt.log.follow()
            except FusemldError as error:
                _log.warning("pod.log_not_followed", key=str(attempt.key), error=str(error))

    # Ends

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        attempt.is_ending = True
        attempt.quiet()
        if outcome.ending is Ending.MISCONFIGURED:
            self._delivery.doubt()
        if attempt.last is None:
            self._finish(attempt, outcome, {})
        else:
            self._start(self._collect, attempt, outcome, name=f"end of {attempt.key}")

    async def _collect(self, attempt: Attempt, outcome: Outcome) -> None:
        outputs: Mapping[str, str] = {}
        attempt.collecting = anyio.CancelScope()
        try:
            with attempt.collecting:
                outcome, outputs = await self._collector.collect(attempt, outcome)
            if attempt.collecting.cancelled_caught:
                outcome = Outcome(ending=Ending.CANCELLED, message=_STOPPED_COLLECTING)
        except Exception:  # noqa: BLE001
            _log.exception("pod.not_collected", key=str(attempt.key))
            if outcome.ending is Ending.SUCCEEDED:
                outcome = Outcome(ending=Ending.LOST, message="what it left behind could not be read")
        faults.point("kubernetes.collected")
        self._finish(attempt, outcome, outputs)

    def _finish(self, attempt: Attempt, outcome: Outcome, outputs: Mapping[str, str]) -> None:
        attempt.is_reported = True
        message = masked(outcome.message, attempt.patterns or ())
        if message != outcome.message:
            outcome = replace(outcome, message=message)
        self._tell(AttemptFinished(key=attempt.key, at=self._clock(), outcome=outcome, outputs=outputs))

    async def _stop(self, attempt: Attempt, grace_s: float) -> None:
        """Have the pod deleted; what the watch says then ends the attempt. One that has no pod ends here."""
        if attempt.uid is None and attempt.creates_unknown:
            await self._creator.find(attempt)
        if attempt.uid is not None:
            # Without any grace the node is not waited for: the containers may still be running then.
            grace = max(1, math.ceil(grace_s))
            if await self._cluster.delete(f"{self._pods}/{attempt.name}", uid=attempt.uid, grace_s=grace):
                return
            if attempt.name in self._reflector.objects:
                return
        elif attempt.is_creating:
            return
        if not attempt.is_over:
            words = "it was told to stop before it was started"
            self._end(attempt, Outcome(ending=Ending.CANCELLED, message=words))

    def _remove_files_but(self, kept: set[str]) -> None:
        for path in self._files.glob("*"):
            if path.name.partition(".")[0] not in kept:
                path.unlink(missing_ok=True)

    def _stays_for_s(self, found: Json) -> float:
        """How long a pod that has ended is kept for people to look at."""
        if not self._settings.keep_finished_s:
            return 0.0
        now = self._clock()
        seen = diagnose(found, found, (), now, self._patience)
        return 0.0 if seen.ended_at is None else seen.ended_at + self._settings.keep_finished_s - now

    # Upkeep

    async def _watch_pods(self, *, task_status: TaskStatus[None]) -> None:
        """What keeps the first list from succeeding may be put right while the daemon runs: permissions, say."""
        tries = 0
        while True:
            try:
                await self._reflector.run(task_status=task_status)
            except FusemldError as error:
                tries += 1
                if str(error) != self._trouble:
                    _log.error("executor.not_ready", executor=self.name, error=str(error))
                self._trouble = str(error)
            await anyio.sleep(backoff_s(tries, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))

    async def _watch_events(self) -> None:
        try:
            await self._events.run()
        except FusemldError as error:
            _log.warning("executor.without_events", executor=self.name, error=str(error))

    async def _upkeep(self) -> None:
        while True:
            await anyio.sleep(_UPKEEP_EVERY_S)
            await insist("codesets.not_swept", self._delivery.sweep_unused)

    async def _sweep(self, kept: frozenset[AttemptKey]) -> None:
        """What a daemon that was killed has left. Nothing of the kind may be created before."""
        await insist("secrets.not_swept", lambda: sweep_secrets(self._cluster, kept))
        self._creator.may_create_secrets.set()
        await insist("codesets.not_swept", self._delivery.sweep_unknown)


def _is_about(event: Json, uid: str | None) -> bool:
    return bool(event["involvedObject"].get("uid") == uid)
