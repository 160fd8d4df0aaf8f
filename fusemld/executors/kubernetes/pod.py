"""The pod and the Secret of an attempt.

Nothing of a pod but what `Launch` carries can be reached from a workflow; the rest comes from the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from fusemld.executors.kubernetes import bundles, fetching, resources, results
from fusemld.executors.kubernetes.bundles import Bundle
from fusemld.executors.kubernetes.names import labels, notes, pod_name
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.executors.kubernetes.variables import check, from_secret, literal, secret_data, secret_keys
from fusemld.executors.outputs import RESULTS
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import Launch, MountedCodeset
from fusemld.model.errors import StartError

STEP: Final = "step"
"""The container that runs the user's image."""
SIDECAR: Final = "results"
"""The container whose log holds the outputs; there is one where outputs are declared and not small."""
UNPACK: Final = "unpack"
FETCH: Final = "fetch"

_OWN: Final = "/fusemld"
_NET_S: Final = 3600.0
"""How much longer than its timeout a pod lives without a daemon that ends it."""
_LONGEST_DEADLINE_S: Final = 2**31 - 1


def pod(
    launch: Launch,
    settings: KubernetesSettings,
    *,
    instance: str,
    namespace: str,
    known: Mapping[str, Bundle],
    more_annotations: Mapping[str, str] = MappingProxyType({}),
) -> Json:
    """The pod of an attempt; it has no secret in it. `known` are the bundles by the digests of their codesets;
    what is not among them is fetched with git. Raises `StartError` for what cannot be a pod."""
    unpacked, fetched = _delivered(launch, known)
    metadata = {
        "name": pod_name(launch.key, instance),
        "namespace": namespace,
        "labels": {**settings.labels, **labels(launch.key, launch.workflow, instance)},
        "annotations": {
            **settings.annotations,
            **more_annotations,
            **notes(launch.key, launch.workflow, launch.outputs),
        },
    }
    helpers: list[Json] = []
    volumes: list[Json] = [{"name": _volume(number), "emptyDir": {}} for number in range(len(launch.codesets))]
    if unpacked:
        pieces = [source for number, _ in unpacked for source in _pieces(launch.codesets[number], known, number)]
        volumes.append({"name": "bundles", "projected": {"sources": pieces}})
        helpers.append(_unpack(launch, settings, unpacked, known))
    if fetched:
        volumes.append({"name": "git", "emptyDir": {"medium": "Memory"}})
        helpers.append(_fetch(launch, settings, fetched, instance))
    if launch.outputs and not _is_small(launch):
        volumes.append({"name": "results", "emptyDir": {}})
        helpers += [_sidecar(launch, settings, *one) for one in sidecars(launch.outputs).items()]
    spec: Json = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": bool(settings.service_account),
        "containers": [_step(launch, settings, instance)],
    }
    optional: Json = {
        "initContainers": helpers,
        "volumes": volumes,
        "serviceAccountName": settings.service_account,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "nodeSelector": settings.node_selector,
        "tolerations": list(settings.tolerations),
        "securityContext": settings.pod_security_context,
        "priorityClassName": settings.priority_class,
        "activeDeadlineSeconds": None
        if launch.timeout_s is None
        else int(min(launch.timeout_s + _NET_S, _LONGEST_DEADLINE_S)),
    }
    spec |= {field: value for field, value in optional.items() if value}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def secret(launch: Launch, *, instance: str, namespace: str, known: Mapping[str, Bundle]) -> Json | None:
    """The Secret of an attempt, of the same name as its pod; None where it has nothing secret."""
    values = {key: launch.secret_env[name] for name, key in secret_keys(launch).items()}
    for number, codeset in _delivered(launch, known)[1]:
        values |= fetching.variables(codeset, number)
    if not values:
        return None
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {
            "name": pod_name(launch.key, instance),
            "namespace": namespace,
            "labels": labels(launch.key, launch.workflow, instance),
            "annotations": notes(launch.key, launch.workflow),
        },
        "data": secret_data(launch, values),
    }


def has_secret(found: Json) -> bool:
    """Whether a pod made by `pod` needs the Secret of its name."""
    containers = (*found["spec"].get("initContainers", ()), *found["spec"]["containers"])
    return any("valueFrom" in variable for container in containers for variable in container.get("env", ()))


def small_output(found: Json) -> str | None:
    """The output that a pod made by `pod` hands over as its termination message."""
    for container in found["spec"]["containers"]:
        path = PurePosixPath(container.get("terminationMessagePath") or "/dev/termination-log")
        if container["name"] == STEP and path.is_relative_to(RESULTS):
            return path.name
    return None


def sidecars(outputs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The containers that hand outputs over, and which of them each does."""
    return {SIDECAR + (f"-{n}" if n else ""): names for n, names in enumerate(results.batches(outputs))}


def is_sidecar(container: str) -> bool:
    return container.partition("-")[0] == SIDECAR


# Containers


def _step(launch: Launch, settings: KubernetesSettings, instance: str) -> Json:
    places = [str(PurePosixPath(codeset.path)) for codeset in launch.codesets]
    env = {
        "FUSEML_RESULTS_DIR": str(RESULTS),
        **({"FUSEML_CODESET_DIR": places[0]} if places else {}),
        **launch.env,
    }
    check(launch, env)
    mounts = [{"name": _volume(number), "mountPath": place} for number, place in enumerate(places)]
    if launch.outputs and not _is_small(launch):
        mounts.append({"name": "results", "mountPath": str(RESULTS)})
    command = launch.command
    if command is None and launch.args is None and settings.default_command:
        command = settings.default_command
    secret_name = pod_name(launch.key, instance)
    variables: list[Json] = [
        {"name": name, "value": literal(value)} for name, value in env.items() if name not in launch.secret_env
    ]
    variables += [from_secret(name, secret_name, key) for name, key in secret_keys(launch).items()]
    optional: Json = {
        "command": None if command is None else [literal(part) for part in command],
        "args": None if launch.args is None else [literal(part) for part in launch.args],
        "workingDir": places[0] if places else None,
        "volumeMounts": mounts or None,
        "resources": resources.of_step(launch, settings),
        "terminationMessagePath": str(RESULTS / launch.outputs[0]) if _is_small(launch) else None,
    }
    return _container(STEP, launch.image, settings, env=variables, **optional)


def _unpack(
    launch: Launch,
    settings: KubernetesSettings,
    codesets: Iterable[tuple[int, MountedCodeset]],
    known: Mapping[str, Bundle],
) -> Json:
    arguments: list[str] = []
    for number, codeset in codesets:
        bundle = known[codeset.digest]
        arguments += [f"{_OWN}/bundles/{number}", bundle.sha256, _target(number), codeset.project, codeset.name]
    mounts = [{"name": "bundles", "mountPath": f"{_OWN}/bundles", "readOnly": True}, *_targets(codesets)]
    return _container(
        UNPACK,
        settings.helper_image,
        settings,
        command=_script(bundles.UNPACK, arguments),
        volumeMounts=mounts,
        resources=resources.as_the_step(launch, settings),
        terminationMessagePolicy="FallbackToLogsOnError",
    )


def _fetch(
    launch: Launch, settings: KubernetesSettings, codesets: Iterable[tuple[int, MountedCodeset]], instance: str
) -> Json:
    own = f"{_OWN}/git"
    arguments = [own]
    env: list[Json] = []
    for number, codeset in codesets:
        arguments += fetching.arguments(codeset, number, _target(number))
        env += [
            from_secret(name, pod_name(launch.key, instance), name) for name in fetching.variables(codeset, number)
        ]
    return _container(
        FETCH,
        settings.git_image,
        settings,
        command=_script(fetching.FETCH, arguments),
        env=env or None,
        volumeMounts=[{"name": "git", "mountPath": own}, *_targets(codesets)],
        resources=resources.as_the_step(launch, settings),
        terminationMessagePolicy="FallbackToLogsOnError",
    )


def _sidecar(launch: Launch, settings: KubernetesSettings, name: str, outputs: Sequence[str]) -> Json:
    return _container(
        name,
        settings.helper_image,
        settings,
        restartPolicy="Always",
        command=_script(results.SCRIPT, results.arguments(outputs, str(RESULTS))),
        volumeMounts=[{"name": "results", "mountPath": str(RESULTS), "readOnly": True}],
        resources=resources.beside_the_step(launch, settings),
    )


def _container(name: str, image: str, settings: KubernetesSettings, **fields: object) -> Json:
    common = {"imagePullPolicy": settings.image_pull_policy, "securityContext": settings.security_context}
    given = {field: value for field, value in fields.items() if value is not None and value != {}}
    return {"name": name, "image": image} | {field: value for field, value in common.items() if value} | given


def _script(script: str, arguments: Iterable[str]) -> list[str]:
    return [literal(part) for part in ("sh", "-c", script, "fusemld", *arguments)]


# Codesets


def _delivered(
    launch: Launch, known: Mapping[str, Bundle]
) -> tuple[list[tuple[int, MountedCodeset]], list[tuple[int, MountedCodeset]]]:
    """Those that are unpacked and those that are fetched, each with its number."""
    numbered = list(enumerate(launch.codesets))
    fetched = [(number, codeset) for number, codeset in numbered if codeset.digest not in known]
    for _, codeset in fetched:
        if not fetching.is_fetchable(codeset):
            raise StartError(
                f"cannot mount codeset {codeset.project}/{codeset.name} in a pod: packed it has more bytes than "
                "the setting kubernetes.codeset_limit_bytes allows; raise that, keep large files in an object "
                "store, or put it into a git repository that pods can reach"
            )
    return [(number, codeset) for number, codeset in numbered if codeset.digest in known], fetched


def _pieces(codeset: MountedCodeset, known: Mapping[str, Bundle], number: int) -> list[Json]:
    return bundles.sources(known[codeset.digest], str(number))


def _volume(number: int) -> str:
    return f"codeset-{number}"


def _target(number: int) -> str:
    return f"{_OWN}/codesets/{number}"


def _targets(codesets: Iterable[tuple[int, MountedCodeset]]) -> list[Json]:
    return [{"name": _volume(number), "mountPath": _target(number)} for number, _ in codesets]


def _is_small(launch: Launch) -> bool:
    return launch.small_output and len(launch.outputs) == 1
