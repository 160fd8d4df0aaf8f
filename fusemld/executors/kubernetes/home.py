"""The namespace of the pods, remembered: those that an earlier daemon made elsewhere would not be watched."""

from __future__ import annotations

from pathlib import Path

from fusemld.executors import durable_files
from fusemld.executors.kubernetes import names
from fusemld.kube.client import KubeCluster
from fusemld.model.errors import ConflictError, ForbiddenError, UnavailableError


async def settle(cluster: KubeCluster, file: Path) -> None:
    """Before the first pod is looked for. `file` holds the namespace that the pods were in before.

    Raises `ConflictError` while there are pods of this daemon, `ForbiddenError` where nobody can tell, and what
    `KubeCluster.get` raises else.
    """
    try:
        before = file.read_text().strip() if file.exists() else ""
        if before == cluster.namespace:
            return
        if before:
            await _require_none(cluster, before)
        durable_files.write(file, cluster.namespace.encode())
    except OSError as error:
        raise UnavailableError(f"cannot remember the namespace in {file}: {error.strerror}") from error


async def _require_none(cluster: KubeCluster, before: str) -> None:
    path = f"/api/v1/namespaces/{before}/pods"
    remedy = (
        f"set kubernetes.namespace back to {before} until its steps are over, or remove with `fusemld cleanup "
        "--keep-applications` what is there"
    )
    try:
        listed = await cluster.get(
            path, {"labelSelector": names.attempts_selector(cluster.instance), "limit": "1"}
        )
    except ForbiddenError as error:
        raise ForbiddenError(
            f"cannot use namespace {cluster.namespace}: whether there are pods of this daemon in {before} may not "
            f"be seen ({error}); {remedy}"
        ) from error
    if listed["items"]:
        raise ConflictError(
            f"cannot use namespace {cluster.namespace}: there are pods of this daemon in {before}; {remedy}"
        )
