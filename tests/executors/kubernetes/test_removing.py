from __future__ import annotations

import anyio
import pytest
from structlog.testing import capture_logs

from fusemld.executors.kubernetes import removing
from fusemld.executors.kubernetes.removing import Removal, Remover
from fusemld.hooks.clusters import Json
from fusemld.kube.pace import Pace
from fusemld.model.errors import ForbiddenError, FusemldError, UnavailableError


class RefusingCluster:
    """Answers deletes with these errors, one after the other, and then deletes."""

    namespace = "runs"

    def __init__(self, *errors: FusemldError) -> None:
        self.pace = Pace(1)
        self.has_deleted = anyio.Event()
        self._errors = list(errors)

    async def get(self, path: str) -> Json:
        raise AssertionError("asked")

    async def delete(self, path: str, *, uid: str | None = None, grace_s: int | None = None) -> bool:
        if self._errors:
            raise self._errors.pop(0)
        self.has_deleted.set()
        return True

    async def delete_collection(self, path: str, selector: str) -> int:
        raise AssertionError("asked")


async def test_what_does_not_pass_by_itself_is_told_once_whenever_it_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(removing, "_FIRST_PAUSE_S", 0.001)
    forbidden = ForbiddenError("cannot delete it: forbidden")
    cluster = RefusingCluster(UnavailableError("cannot delete it: away"), forbidden, forbidden)
    remover = Remover(cluster, lambda _: 0.0)

    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            await tasks.start(remover.run)
            remover.add(Removal(name="pod-1", pod=True, uid="u"))
            with anyio.fail_after(5):
                await cluster.has_deleted.wait()
            tasks.cancel_scope.cancel()

    assert [(log["event"], log["error"]) for log in logs] == [("pod.not_removed", str(forbidden))]
