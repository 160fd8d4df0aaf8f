"""Places where tests may let a process die as if by `kill -9`.

`FUSEMLD_FAULT=NAME` kills the process that reaches the point NAME; `NAME:3` at the third time. Without the
variable a point costs one comparison. `POINTS`, and the lists below it, have them all: every place where something
is written or done that the next life of the process has to make sense of.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

VARIABLE = "FUSEMLD_FAULT"

POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "folder.noticed": "documents were taken in and nothing of that is stored",
        "folder.stored": "documents are stored and the runs that they start are not",
        "store.committing": "a transaction is complete and not committed",
        "store.committed": "a transaction is committed and nobody was told",
        "supervisor.advanced": "events were applied and nothing of that is stored",
        "supervisor.committed": "events are stored and their effects not performed",
        "supervisor.performed": "effects are handed over, and ended attempts not forgotten",
        "outputs.written": "long outputs are in a file that has not got its name yet",
        "outputs.kept": "long outputs are in their file and no run names it",
        "performer.pinned": "a run's codesets are pinned and the run does not know",
        "performer.prepared": "an attempt is resolved and not handed to its executor",
        "performer.ended": "the end of an attempt is known and not stored",
        "executor.prepared": "an attempt has its folder and was not given to the keeper",
        "executor.spawned": "the keeper has started an attempt and the run does not know",
        "executor.removed": "the folder of an ended attempt is gone and the keeper still knows it",
        "steering.started": "a plugin step is about to do its work",
        "steering.ended": "a plugin step has done its work and the run does not know",
        "keeper.claimed": "a start is in the keeper's journal and no process was started",
        "keeper.spawned": "a process was started and its number is in no journal",
        "keeper.reaped": "a process has ended and its end is in no journal",
        "keeper.recorded": "what happened is in the keeper's journal and the daemon was not told",
    }
)
"""Name to what holds when a process dies there."""

KUBERNETES_POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "kubernetes.delivered": "the codesets of an attempt are in the cluster and nothing else of it",
        "kubernetes.secret_created": "the Secret of an attempt is there and its pod is not",
        "kubernetes.pod_created": "the pod of an attempt is there and nobody was told",
        "kubernetes.started": "the pod runs and the run does not know",
        "kubernetes.collected": "log and outputs of an ended attempt were read and its end was not told",
        "kubernetes.secret_deleted": "the Secret of a recorded attempt is gone and its pod is there",
        "kubernetes.pod_deleted": "the deletion of the pod of a recorded attempt was accepted",
    }
)
"""The same for runs on the kubernetes executor."""

SERVING_POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "service.recorded": "a start of a service is recorded and no process was started",
        "service.spawned": "a process of a service was started and does not serve yet",
        "service.ready": "a process of a service answers and is not recorded as the one that serves",
        "service.replaced": "the process that took over is recorded and the one before still runs",
        "service.unwanted": "a service is not wanted any more and all of it is there",
        "service.removed": "nothing is left of a service but its record",
        "application.replaced": "what an update leaves behind is gone and the update is not recorded",
        "application.removed": "what belonged to an application is gone and the application is recorded",
    }
)
"""The same for services and for what is served."""

UPKEEP_POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "backup.copied": "a copy of the database is complete and not in its place",
        "codesets.copied": "a copy of a codeset is complete and not in its place",
        "executor.booted": "it is noted which attempts went with the host or a journal, and no run knows",
        "keeper.compacted": "the keeper's journal is written anew and not in its place",
        "store.migrating": "a database is brought up to date and nothing of that is committed",
        "retention.forgotten": "ended runs are out of the database and their logs are there",
        "retention.discarded": "a folder is out of its place and not removed",
        "codesets.discarded": "a copy of a codeset is out of its place and not removed",
        "restore.prepared": "the database to restore is complete and not in its place",
        "restore.kept": "the database to replace has its other name and is still in its place",
        "restore.replaced": "the restored database is in its place",
    }
)
"""The same for what no run passes, or only some: each has a test of its own."""

_name, _, _count = os.environ.get(VARIABLE, "").partition(":")
_left = int(_count or 1)


def point(name: str) -> None:
    """Die here if the environment of this process says so. `name` is one of those that are listed here."""
    global _left  # noqa: PLW0603 - counts per process, like the variable itself
    if name != _name:
        return
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
