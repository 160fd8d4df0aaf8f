"""A pod as the daemon makes them for steps, for `fusemld check`: its step says which git there is."""

from __future__ import annotations

import secrets
import time

import anyio

from fusemld.executors.kubernetes import results
from fusemld.executors.kubernetes.diagnosis import Patience, Phase, diagnose
from fusemld.executors.kubernetes.pod import SIDECAR, pod
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import Launch
from fusemld.kube.client import KubeCluster
from fusemld.model.errors import NotFoundError, StartError, UnavailableError
from fusemld.model.run import AttemptKey, Ending

OUTPUT = "version"
PROGRAM = f"git --version > $FUSEML_RESULTS_DIR/{OUTPUT}"
LONGEST_S = 120.0
LOOKS_APART_S = 0.5
REMOVAL_S = 10.0
PATIENCE = Patience(unschedulable_s=30, image_pull_s=15, misconfigured_s=15)
"""Of somebody who sits and waits."""


class CheckPod:
    """It needs both helper images: the step runs in `git_image`, the sidecar in `helper_image`. Its label of the
    daemon's instance is nobody's, so no daemon takes it for its own."""

    def __init__(self, cluster: KubeCluster, settings: KubernetesSettings) -> None:
        self._cluster = cluster
        self._pods = f"/api/v1/namespaces/{cluster.namespace}/pods"
        launch = Launch(
            key=AttemptKey("fusemld-check", secrets.token_hex(4), 1),
            workflow="fusemld-check",
            image=settings.git_image,
            command=("sh", "-c", PROGRAM),
            outputs=(OUTPUT,),
            timeout_s=LONGEST_S,
        )
        self._body = pod(launch, settings, instance="check", namespace=cluster.namespace, known={})
        self._name = str(self._body["metadata"]["name"])

    async def rehearse(self) -> None:
        """Everything but storing it. Raises what the cluster has against it; `NotFoundError`: the namespace."""
        await self._cluster.create(self._pods, self._body, params={"dryRun": "All"})

    async def run(self) -> str:
        """What it did, in words; the pod is gone afterwards. Raises `StartError` with the diagnosis where it does
        not end well, `UnavailableError` where that cannot be known."""
        started = time.monotonic()
        await self._cluster.create(self._pods, self._body)
        try:
            node = await self._end()
            log = await self._cluster.read(f"{self._pods}/{self._name}/log", {"container": SIDECAR})
        finally:
            with anyio.move_on_after(REMOVAL_S, shield=True):
                await self._cluster.delete(f"{self._pods}/{self._name}", grace_s=0)
        handed_over = results.parse(log, (OUTPUT,))
        if OUTPUT not in handed_over.values:
            raise StartError(f"cannot hand outputs over: {handed_over.damage or 'there was none'}")
        version = handed_over.values[OUTPUT].decode(errors="replace").strip()
        return f"{version} in a pod on {node} after {time.monotonic() - started:.0f} s"

    async def _end(self) -> str:
        """The node on which it has succeeded."""
        last: Json | None = None
        note = "nothing is known of the pod"
        with anyio.move_on_after(LONGEST_S):
            while True:
                try:
                    found = await self._cluster.get(f"{self._pods}/{self._name}")
                except NotFoundError:
                    found = None
                seen = diagnose(found, last, (), time.time(), PATIENCE)
                last, note = found or last, seen.note or note
                if seen.outcome is not None and seen.outcome.ending is not Ending.SUCCEEDED:
                    raise StartError(f"cannot run a pod: {seen.outcome.ending}: {seen.outcome.message}")
                if seen.phase is Phase.OVER and last is not None:
                    return str(last["spec"].get("nodeName", "a node"))
                await anyio.sleep(LOOKS_APART_S)
        raise UnavailableError(f"cannot run a pod within {LONGEST_S:g} s: {note}")
