"""Waits until a service that was applied serves, and tells what is waited for."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from fusemld.hooks.clusters import Cluster, Json
from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    FusemldError,
    NotFoundError,
    StartError,
    UnavailableError,
)
from fusemld_kserve.manifests import RUN, Place, annotation
from fusemld_kserve.readiness import Phase, Verdict, failure, is_of_a_load, judge, workload_place

SETTLE_S = 15.0
"""How long a failure that stood there before may be that of the specification before."""
LOAD_S = 60.0
"""How long a model may fail to load, be it because the object store did not answer once: kubelet tries again after
10 s, 20 s, 40 s..."""
_AGAIN_S = 1.0


async def require_sight(cluster: Cluster, service: Json) -> None:
    """Before the service is given another model. Raises `StartError` where nobody could know when that serves."""
    if (place := workload_place(service)) is None:
        return
    try:
        await cluster.get(place.collection, {"fieldSelector": f"metadata.name={place.name}"})
    except ForbiddenError as error:
        raise StartError(
            f"cannot update {service['metadata']['name']}: when its new model serves cannot be known; allow to "
            f"list and watch what runs it ({place.resource} of {place.api_version}): {error}"
        ) from error
    except NotFoundError:
        return


class Wait:
    """One wait for one service. `before` is the service as it was when the new specification was applied."""

    def __init__(
        self, cluster: Cluster, place: Place, run: str, before: Json | None, note: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._place = place
        self._run = run
        self._failed_before = failure(before)
        self._load_failed_at: float | None = None
        self._note = note
        self._service: Json | None = None
        self._is_known = False
        self._workload: Json | None = None
        self._is_hidden = False
        self._followed: str = ""
        self._error: FusemldError | None = None
        self._changed = anyio.Event()

    async def url(self) -> str:
        """Where it serves, once it does. Raises `StartError` with KServe's words where it never will,
        `ConflictError` where it is not the run's service any more."""
        url = ""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow_service, name=f"follow {self._place.reference}")
                url = await self._ready(tasks)
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _only(group) from group
        return url

    async def _ready(self, tasks: TaskGroup) -> str:
        began_at = anyio.current_time()
        noted = ""
        while True:
            changed = self._changed = anyio.Event()
            verdict = self._verdict(tasks)
            settling_s: float | None = None
            if verdict.phase is Phase.READY:
                return verdict.url
            if verdict.phase is Phase.FAILED:
                settling_s = self._settling_s(began_at)
                if settling_s <= 0:
                    if await self._is_confirmed():
                        raise StartError(f"cannot serve {self._place.name}: {verdict.words}")
                    continue
            if verdict.words != noted:
                noted = verdict.words
                self._note(f"waiting for {self._place.name}: {noted}")
            with anyio.move_on_after(settling_s):
                await changed.wait()

    def _verdict(self, tasks: TaskGroup) -> Verdict:
        if self._error is not None:
            raise self._error
        if not self._is_known:
            return Verdict(phase=Phase.WAITING, words="")
        if self._service is None:
            raise ConflictError(f"cannot serve {self._place.name}: its InferenceService was deleted from outside")
        run = annotation(self._service, RUN)
        if run != self._run:
            raise ConflictError(f"cannot serve {self._place.name}: run {run or 'of somebody else'} has updated it")
        place = None if self._is_hidden else workload_place(self._service)
        if place is not None and place.path != self._followed:
            self._followed, self._workload = place.path, None
            tasks.start_soon(self._follow_workload, place, name=f"follow {place.reference}")
        return judge(self._service, run=self._run, place=place, workload=self._workload)

    async def _is_confirmed(self) -> bool:
        """Whether the service still is as it was last seen. While the API server is away nobody can tell; when it
        is back, what failed to load has its time once more."""
        try:
            service = await self._cluster.get(self._place.path)
        except NotFoundError:
            await anyio.sleep(_AGAIN_S)  # until it is told
            return False
        except UnavailableError:
            self._load_failed_at = None
            await anyio.sleep(_AGAIN_S)
            return False
        is_same = self._service is not None and _version(service) == _version(self._service)
        self._service = service
        return is_same

    def _settling_s(self, began_at: float) -> float:
        """How long the failure may still pass."""
        now = anyio.current_time()
        until = began_at + SETTLE_S if failure(self._service) == self._failed_before else now
        if is_of_a_load(self._service):
            if self._load_failed_at is None:
                self._load_failed_at = now
            until = max(until, self._load_failed_at + LOAD_S)
        return until - now

    async def _follow_service(self) -> None:
        try:
            async with self._cluster.states(self._place.collection, self._place.name) as states:
                async for service in states:
                    self._service, self._is_known = service, True
                    self._changed.set()
        except (FusemldError, BaseExceptionGroup) as error:
            self._fail(error)

    async def _follow_workload(self, place: Place) -> None:
        try:
            async with self._cluster.states(place.collection, place.name) as states:
                async for state in states:
                    if self._followed == place.path:
                        self._workload = state
                        self._changed.set()
        except (FusemldError, BaseExceptionGroup) as error:
            match _only(error):
                case ForbiddenError() as cause:
                    self._note(
                        f"cannot see the {place.kind} that runs it, so KServe's own word has to do: {cause}"
                    )
                    self._is_hidden = True
                    self._changed.set()
                case NotFoundError():
                    what = f"{place.kind} of {place.api_version}"
                    self._fail(
                        StartError(
                            f"cannot serve {self._place.name}: KServe wants a {what}, which the cluster "
                            "does not know; install what is missing, or change KServe's default deployment mode"
                        )
                    )
                case cause:
                    self._fail(cause)

    def _fail(self, error: BaseException) -> None:
        cause = _only(error)
        if not isinstance(cause, FusemldError):
            raise cause
        self._error = cause
        self._changed.set()


def _only(error: BaseException) -> BaseException:
    """What a group of one holds."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _version(service: Json) -> object:
    return service["metadata"].get("resourceVersion")
