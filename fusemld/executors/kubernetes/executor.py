"""The executor that runs attempts as pods."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskGroup, TaskStatus

from fusemld.executors.kubernetes import names
from fusemld.executors.kubernetes.attempts import Attempt
from fusemld.executors.kubernetes.collecting import Collector
from fusemld.executors.kubernetes.course import Course
from fusemld.executors.kubernetes.creating import Creator, masked_values
from fusemld.executors.kubernetes.delivery import Delivery
from fusemld.executors.kubernetes.diagnosis import Patience, diagnose
from fusemld.executors.kubernetes.home import settle
from fusemld.executors.kubernetes.logs import AttemptLog
from fusemld.executors.kubernetes.masks import KEY_ANNOTATION, Masks
from fusemld.executors.kubernetes.pod import STEP, has_secret, small_output
from fusemld.executors.kubernetes.refusals import in_doubt
from fusemld.executors.kubernetes.removing import Removal, Remover
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.executors.kubernetes.statuses import unpacked_config_maps
from fusemld.executors.kubernetes.sweeping import insist, sweep_secrets
from fusemld.executors.masking import needles
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import Condition, Launch, Report
from fusemld.kube.client import KubeCluster
from fusemld.kube.reflector import Reflector
from fusemld.model.backoff import backoff_s
from fusemld.model.errors import FusemldError, StartError, UnavailableError
from fusemld.model.run import AttemptKey, Ending

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_HOME = "namespace"
_SEARCH_AFTER_S = 30.0
"""A pod that was created and of which the watch has said nothing for so long is looked for."""
_UPKEEP_EVERY_S = 300.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_EVENTS_AGAIN_S = 60.0


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
        self._spared: Collection[str] = ()
        """Runs whose attempts are all expected, whichever they are."""
        self._is_recovered = False
        self._trouble = "the pods have not been listed yet"
        self._tasks: TaskGroup | None = None
        self._files = state / "kubernetes"
        """What is remembered for the next daemon: the namespace, and of every attempt files that begin with its
        pod's name."""
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
        collector = Collector(
            cluster,
            self._pods,
            outputs_patience_s=settings.node_lost_after_s,
            is_connected=lambda: self._reflector.is_connected,
        )
        self._course = Course(
            cluster,
            collector,
            self._patience,
            doubt=self._delivery.doubt,
            is_steady=lambda: self._reflector.is_steady,
            clock=clock,
        )

    async def run(self, report: Report, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                await tasks.start(self._remover.run, name="remover")
                await tasks.start(self._course.run, report, name="course of attempts")
                await tasks.start(self._watch_pods, name="pods")
                self._trouble = ""
                _log.info("executor.ready", executor=self.name, cluster=self._cluster.name)
                tasks.start_soon(self._watch_events, name="events of pods")
                tasks.start_soon(self._upkeep, name="codesets in the cluster")
                task_status.started()
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
                self._course.end(attempt, Ending.LOST, "no pod of it was found after a restart")
        if attempt.is_over or attempt.pod is not None or attempt.is_gone:
            return
        if not attempt.is_stopping:
            await self._create(attempt, launch)
        if attempt.is_stopping:
            await self._stop(attempt, 0)

    async def recover(self, keys: Sequence[AttemptKey], spared: Collection[str] = ()) -> frozenset[AttemptKey]:
        wanted = frozenset(keys)
        self._expected, self._spared = set(wanted), spared
        self._is_recovered = True
        for found in list(self._reflector.objects.values()):
            self._meet(found)
        if not spared:  # whose the files are is not to be seen from their names
            self._remove_files_but({names.pod_name(key, self._instance) for key in wanted})
        assert self._tasks is not None, "`run` is ready before"
        self._tasks.start_soon(self._sweep, {*spared, *(key.run for key in wanted)}, name="sweep")
        return wanted & self._attempts.keys()

    async def kill(self, key: AttemptKey, grace_s: float) -> None:
        attempt = self._attempts.get(key)
        if attempt is None or attempt.is_reported:
            return
        attempt.is_stopping = True
        if attempt.is_ending:
            attempt.collecting.cancel()
        else:
            await self._stop(attempt, grace_s)

    async def unknown(self, keys: Sequence[AttemptKey]) -> frozenset[AttemptKey]:
        """A pod that is gone ends its attempt: the watch, the next list or the search for it tells."""
        return frozenset(keys) - self._attempts.keys()

    async def forget(self, key: AttemptKey) -> None:
        attempt = self._attempts.pop(key, None)
        if attempt is None:
            if key in self._expected:
                self._expected.discard(key)
                self._remover.add(
                    Removal(
                        name=names.pod_name(key, self._instance),
                        secret=True,
                        secret_selector=names.attempt_selector(key, self._instance),
                    )
                )
            return
        del self._by_name[attempt.name]
        attempt.quiet()
        self._delivery.release(attempt.held)
        attempt.log.forget()
        if attempt.mask_key:
            self._masks.drop(attempt.name)
        if attempt.pod is not None:
            self._remover.dismiss(attempt.pod, secret=attempt.has_secret)
        elif attempt.has_secret or attempt.creates_unknown or attempt.has_left:
            self._remover.add(
                Removal(
                    name=attempt.name,
                    secret=attempt.has_secret,
                    secret_selector=names.attempt_selector(key, self._instance),
                    pod=attempt.has_left or (attempt.creates_unknown and not attempt.is_gone),
                    uid=attempt.uid if attempt.has_left else None,
                    is_watched=not attempt.has_left,
                    is_ours=lambda pod: names.is_ours(pod, key, self._instance),
                )
            )

    def condition(self) -> Condition:
        trouble = self._reflector.trouble or self._trouble
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
                self._course.end(attempt, Ending.LOST, words)
            return
        self._found(attempt, found)

    def _found(self, attempt: Attempt, found: Json) -> None:
        """Its pod is there, whether the watch says so or not."""
        attempt.pod = attempt.last = found
        attempt.uid = found["metadata"]["uid"]
        attempt.creates_unknown = False
        attempt.alarm = asyncio.get_running_loop().call_later(_SEARCH_AFTER_S, self._search_soon, attempt)

    def _search_soon(self, attempt: Attempt) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(self._search, attempt, name=f"search for {attempt.name}")

    async def _search(self, attempt: Attempt) -> None:
        """The watch has not told of the pod: it may have come and gone while there was none."""
        try:
            found = await self._creator.find(attempt)
        except FusemldError:
            found = attempt.pod
        if attempt.name in self._reflector.objects or attempt.is_over or attempt.is_gone:
            return
        if found is None:
            attempt.pod, attempt.is_gone = None, True
            self._course.look(attempt)
        else:
            self._found(attempt, found)

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

    # What the cluster says

    def _pod_changed(self, old: Json | None, new: Json | None) -> None:
        """A pod that cannot be understood stops no other."""
        try:
            self._follow_pod(old, new)
        except Exception:  # noqa: BLE001
            _log.exception("pod.not_understood")

    def _follow_pod(self, old: Json | None, new: Json | None) -> None:
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
        attempt.has_left = new is None and "deletionTimestamp" not in found["metadata"]
        self._course.look(attempt)

    def _meet(self, found: Json) -> None:
        """A pod of this instance that nobody here knows: it is adopted if its attempt is waited for, else it goes.
        One of another name (a copy that somebody made) is not ours, whatever its labels say."""
        name = found["metadata"]["name"]
        if name in self._by_name or name in self._remover.removing:
            return
        key = names.attempt_of(found)
        if key is None or name != names.pod_name(key, self._instance):
            return
        if key in self._expected or key.run in self._spared:
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
        attempt.held = tuple(unpacked_config_maps(found))
        self._delivery.hold(attempt.held)
        attempt.mask_key = found["metadata"].get("annotations", {}).get(KEY_ANNOTATION, "")
        if attempt.mask_key:
            values = self._masks.recall(attempt.name, attempt.mask_key)
            attempt.patterns = None if values is None else needles(values)
        for event in self._events.objects.values():
            if event["involvedObject"].get("name") == attempt.name:
                attempt.events[event["metadata"]["name"]] = event
        self._course.look(attempt)

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
            self._course.look(attempt)

    # Ends

    async def _stop(self, attempt: Attempt, grace_s: float) -> None:
        """Have the pod deleted; what the watch says then ends the attempt. One that has no pod ends here."""
        if attempt.uid is None and attempt.creates_unknown:
            found = await self._creator.find(attempt)
            if found is not None and attempt.uid is None:
                self._found(attempt, found)
        if attempt.uid is not None and not self._reflector.is_steady:
            # It may have ended by itself since it was last heard of, and what it left behind would go with it.
            raise UnavailableError(
                f"cannot stop {attempt.key} yet: the API server was away, and how its pod is now is not known"
            )
        if attempt.uid is not None:
            # Without any grace the node is not waited for: the containers may still be running then.
            grace = max(1, math.ceil(grace_s))
            with in_doubt():
                path = f"{self._pods}/{attempt.name}"
                was_there = await self._cluster.delete(path, uid=attempt.uid, grace_s=grace)
            if was_there:
                return
            if attempt.name in self._reflector.objects:
                return
        elif attempt.is_creating:
            return
        if not attempt.is_over:
            words = "it was told to stop before it was started"
            self._course.end(attempt, Ending.CANCELLED, words)

    def _remove_files_but(self, kept: set[str]) -> None:
        for path in self._files.glob("*.*"):
            if path.name.partition(".")[0] not in kept:
                path.unlink(missing_ok=True)

    def _stays_for_s(self, found: Json) -> float:
        """How long a pod that has ended is kept for people to look at."""
        if not self._settings.keep_finished_s:
            return 0.0
        now = self._cluster.now()
        seen = diagnose(found, found, (), now, self._patience)
        return 0.0 if seen.ended_at is None else seen.ended_at + self._settings.keep_finished_s - now

    # Upkeep

    async def _watch_pods(self, *, task_status: TaskStatus[None]) -> None:
        """What keeps the first list from succeeding may be put right while the daemon runs: permissions, say."""
        tries = 0
        while True:
            try:
                await settle(self._cluster, self._files / _HOME)
                await self._reflector.run(task_status=task_status)
            except FusemldError as error:
                tries += 1
                if str(error) != self._trouble:
                    _log.error("executor.not_ready", executor=self.name, error=str(error))
                self._trouble = str(error)
            await anyio.sleep(backoff_s(tries, _FIRST_PAUSE_S, _LONGEST_PAUSE_S))

    async def _watch_events(self) -> None:
        """What is refused now somebody may grant later."""
        while True:
            try:
                await self._events.run()
            except FusemldError as error:
                _log.warning("executor.without_events", executor=self.name, error=str(error))
            await anyio.sleep(_EVENTS_AGAIN_S)

    async def _upkeep(self) -> None:
        while True:
            await anyio.sleep(_UPKEEP_EVERY_S)
            await insist("codesets.not_swept", self._delivery.sweep_unused)

    async def _sweep(self, kept: Collection[str]) -> None:
        """What a daemon that was killed has left. Nothing of the kind may be created before."""
        await insist("secrets.not_swept", lambda: sweep_secrets(self._cluster, kept))
        self._creator.may_create_secrets.set()
        await insist("codesets.not_swept", self._delivery.sweep_unknown)
