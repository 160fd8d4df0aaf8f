"""What the cluster of the settings has for the daemon, and what to do about what it lacks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence

import anyio

from fusemld.daemon import cluster_access
from fusemld.daemon.check_pod import CheckPod
from fusemld.daemon.findings import Finding, fail, ok, unknown, warn
from fusemld.daemon.settings import Settings
from fusemld.executors.kubernetes.permissions import PERMISSIONS, SERVING_GROUP, SERVING_VERSION, Need, Permission
from fusemld.kube import library
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import connect
from fusemld.kube.review import Check, has_api, permitted, server_version
from fusemld.model.errors import FusemldError, NotFoundError, StartError

OLDEST = (1, 29)
"""Native sidecars are on from there on."""
INSTALL = "pip install 'fusemld[kubernetes]'"
SAME_CREDENTIALS = "see whether `kubectl get --raw /version` works with the same credentials"
ROLE = "kubectl apply --namespace {} -f examples/kubernetes/role.yaml"

Bad = Callable[[str, str, str], Finding]


def check(settings: Settings, *, run_pod: bool = False) -> list[Finding]:
    """Nothing where no cluster is configured. Nothing is changed in the cluster, but for `run_pod`: a pod is run
    with the helper images and removed. What every run needs fails where the executor is `kubernetes`."""
    if not cluster_access.is_configured(settings):
        return []

    async def collected() -> list[Finding]:
        return [finding async for finding in _findings(settings, run_pod)]

    return anyio.run(collected)


async def _findings(settings: Settings, run_pod: bool) -> AsyncIterator[Finding]:
    bad = fail if settings.executor == cluster_access.KUBERNETES else warn
    try:
        library.load()
    except StartError as error:
        yield bad("cluster", str(error), INSTALL)
        return
    try:
        async with connect(cluster_access.connection(settings.kubernetes), instance="check") as cluster:
            try:
                version = await server_version(cluster)
            except FusemldError as error:
                yield bad("cluster", f"{cluster.name}: {error}", SAME_CREDENTIALS)
                return
            yield version_finding(cluster.name, version, bad)
            async for finding in _inside(settings, cluster, bad, run_pod):
                yield finding
    except StartError as error:
        yield bad(
            "cluster", str(error), "correct kubernetes.kubeconfig, kubernetes.context or kubernetes.in_cluster"
        )


def version_finding(server: str, version: str, bad: Bad) -> Finding:
    """`version` like `v1.36.2`; vendors append words of their own."""
    numbers = re.match(r"v(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= OLDEST:
        return ok("cluster", f"{server}, Kubernetes {version}")
    oldest = ".".join(str(number) for number in OLDEST)
    return bad("cluster", f"{server} has Kubernetes {version}: {oldest} is the oldest that works", "upgrade it")


async def _inside(settings: Settings, cluster: KubeCluster, bad: Bad, run_pod: bool) -> AsyncIterator[Finding]:
    try:
        refused = await _refused(cluster)
        serves = await has_api(cluster, SERVING_GROUP, SERVING_VERSION, "InferenceService")
        for need in Need:
            if serves or need not in (Need.MODELS, Need.ROLLOUTS):
                of_need = [permission for permission in refused if permission.need is need]
                yield _rights(cluster, need, of_need, bad if need is Need.STEPS else warn)
        async for finding in _records(settings, cluster):
            yield finding
        if serves:
            yield ok("kserve", f"{SERVING_GROUP}/{SERVING_VERSION} is served")
        else:
            message = f"{SERVING_GROUP}/{SERVING_VERSION} is not served: no model can become an InferenceService"
            yield warn("kserve", message, "install KServe, if this cluster is to serve models")
        pod = CheckPod(cluster, settings.kubernetes)
        if not any(permission.resource == "pods" for permission in refused):
            yield await _admission(pod, cluster, bad)
            yield await _images(pod, settings, bad, run_pod)
    except FusemldError as error:
        yield bad("cluster", f"{cluster.name}: {error}", "look at the API server's health")


async def _refused(cluster: KubeCluster) -> list[Permission]:
    verdicts = await permitted(cluster, [each.check(cluster.namespace) for each in PERMISSIONS])
    return [each for each, verdict in zip(PERMISSIONS, verdicts, strict=True) if not verdict.is_allowed]


def _rights(cluster: KubeCluster, need: Need, refused: Sequence[Permission], bad: Bad) -> Finding:
    name = f"rights for {need}"
    if not refused:
        return ok(name, f"all that is needed in namespace {cluster.namespace}")
    verbs: dict[str, list[str]] = {}
    for permission in refused:
        verbs.setdefault(permission.kind, []).append(permission.verb)
    listed = "; ".join(f"{', '.join(of_kind)} {kind}" for kind, of_kind in verbs.items())
    message = f"refused in namespace {cluster.namespace}: {listed}. {need.consequence}"
    return bad(name, message, ROLE.format(cluster.namespace))


async def _records(settings: Settings, cluster: KubeCluster) -> AsyncIterator[Finding]:
    """Whether the Secrets that records may name can be read; `*` stands for any namespace or name."""
    for allowed in settings.secrets.secrets:
        namespace, _, secret = allowed.partition("/")
        wanted = Check(
            verb="get",
            resource="secrets",
            namespace="" if "*" in namespace else namespace,
            name="" if "*" in secret else secret,
        )
        (verdict,) = await permitted(cluster, [wanted])
        if verdict.is_allowed:
            yield ok("rights for records", f"Secret {allowed} can be read")
        else:
            message = f"refused: {wanted}. Records cannot take credentials from there."
            yield warn("rights for records", message, "grant it, or change the setting secrets.secrets")


async def _admission(pod: CheckPod, cluster: KubeCluster, bad: Bad) -> Finding:
    """Whether the API server takes a pod as the daemon makes them; nothing is stored."""
    try:
        await pod.rehearse()
    except NotFoundError:
        namespace = cluster.namespace
        return bad("pods", f"there is no namespace {namespace}", f"kubectl create namespace {namespace}")
    except FusemldError as error:
        remedy = "change the namespace's policy, or the settings below kubernetes that make a pod"
        return bad("pods", f"the pods of steps are not taken: {error}", remedy)
    return ok("pods", f"namespace {cluster.namespace} takes the pods of steps")


async def _images(pod: CheckPod, settings: Settings, bad: Bad, run_pod: bool) -> Finding:
    images = f"{settings.kubernetes.helper_image} and {settings.kubernetes.git_image}"
    if not run_pod:
        return unknown(
            "helper images", f"{images} were not tried", "`fusemld check --run-pod` tries them in a pod"
        )
    try:
        return ok("helper images", f"{images}: {await pod.run()}")
    except FusemldError as error:
        remedy = "set kubernetes.helper_image and kubernetes.git_image to images that this cluster can pull"
        return bad("helper images", f"{images}: {error}", remedy)
