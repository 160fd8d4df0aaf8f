"""Everything an operator can say about the cluster and the pods; the group `kubernetes` of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

MIB = 1024**2

Period = Annotated[float, msgspec.Meta(ge=0.1)]
"""Of something that is done again and again: without a pause it would take a whole processor."""


class KubernetesSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster is configured where the executor is `kubernetes`, or where `kubeconfig` or `in_cluster` is set."""

    kubeconfig: Path | None = None
    """Without it and `in_cluster`: the service account in a pod, else `$KUBECONFIG`, else `~/.kube/config`. Steps
    under way are not found in another cluster: they are lost, and may go on where they are."""
    context: str = ""
    """Of the kubeconfig; empty: its current one."""
    in_cluster: bool = False
    """Use the service account of the pod that the daemon runs in."""
    namespace: str = ""
    """For everything that is created; empty: that of the context or of the service account, else `default`. A new
    one is used once no pod of this daemon is left in the one before."""
    zone: str = "cluster"
    """The zone of the pods, for matching extension records."""

    image_pull_policy: Literal["", "Always", "IfNotPresent", "Never"] = ""
    """Of the step's and the helper images; empty: as the cluster does it."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the namespace."""
    service_account: str = ""
    """Of the pods; empty: the namespace's default one. Its token is mounted only where this is set."""
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, Any], ...] = ()
    """As in a pod specification."""
    labels: dict[str, str] = {}
    """Added to every pod."""
    annotations: dict[str, str] = {}
    pod_security_context: dict[str, Any] = {}
    security_context: dict[str, Any] = {}
    """Of every container, the helpers included."""
    priority_class: str = ""
    requests: dict[str, str] = {}
    """Resources of steps that say nothing."""
    limits: dict[str, str] = {}
    default_command: tuple[str, ...] = ()
    """Command of steps that say nothing, for images that rely on the reference's `run`."""

    helper_image: str = "busybox:1.37"
    """Has sh, tar, gzip, base64 and sha256sum: unpacks codesets and hands outputs over."""
    git_image: str = "alpine/git:2.49.1"
    """Has sh and git: fetches codesets that are too large for ConfigMaps."""
    codeset_limit_bytes: int = 4 * MIB
    """Packed size up to which codesets travel as ConfigMaps."""

    unschedulable_s: float = 3600.0
    """How long a pod may wait for a place."""
    image_pull_s: float = 300.0
    """How long an image that cannot be pulled is tried."""
    misconfigured_s: float = 60.0
    """How long a pod may wait for a Secret, ConfigMap or volume that is not there."""
    starting_s: float = 3600.0
    """How long the node that a pod was given may pull its images, mount its volumes and fetch its codesets."""
    node_lost_after_s: float = 300.0
    """After so long without word from its node a pod counts as lost, though it may still be running there."""
    keep_finished_s: float = 0.0
    """How long finished pods stay, for people who want to look."""

    request_timeout_s: Period = 30.0
    """Of one request to the API server."""
    requests_at_once: Annotated[int, msgspec.Meta(ge=1)] = 64
    """The most requests under way; fewer while the server says that it has too much to do."""
    watch_silence_s: Period = 90.0
    """A watch that says nothing for so long is replaced."""
    relist_s: Period = 600.0
    """Between two complete lists, whatever the watch says."""
