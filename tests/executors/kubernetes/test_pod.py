from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusemld.executors.kubernetes.bundles import Bundle
from fusemld.executors.kubernetes.names import attempt_of, is_ours, outputs_of, pod_name
from fusemld.executors.kubernetes.pod import FETCH, SIDECAR, STEP, UNPACK, has_secret, pod, secret, small_output
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import Launch, MountedCodeset
from fusemld.model.errors import StartError
from fusemld.model.run import AttemptKey

KEY = AttemptKey("demo-261123-081502-fgk3f9x2", "train", 1)
CANARY = "s3cr3t-canary"
BUNDLE = Bundle(sha256="5" * 64, names=("cm-0", "cm-1"), size_bytes=10)
KNOWN = {"small": BUNDLE}


def launch(**more: object) -> Launch:
    return msgspec.structs.replace(Launch(key=KEY, workflow="demo", image="trainer:1"), **more)


def codeset(path: str = "/project", digest: str = "small", **more: object) -> MountedCodeset:
    made = MountedCodeset(
        path=path, project="default", name="digits", version="c" * 40, digest=digest, source=Path("/nowhere")
    )
    return msgspec.structs.replace(made, **more)


def spec(asked: Launch, settings: KubernetesSettings | None = None) -> Json:
    made = pod(asked, settings or KubernetesSettings(), instance="one", namespace="runs", known=KNOWN)
    found: Json = made["spec"]
    return found


def containers(asked: Launch, settings: KubernetesSettings | None = None) -> dict[str, Json]:
    found = spec(asked, settings)
    return {one["name"]: one for one in (*found.get("initContainers", ()), *found["containers"])}


def variables(asked: Launch) -> dict[str, str]:
    return {one["name"]: one.get("value", "<secret>") for one in containers(asked)[STEP]["env"]}


def secret_of(asked: Launch) -> Json | None:
    return secret(asked, instance="one", namespace="runs", known=KNOWN)


def expanded(text: str) -> str:
    """As kubelet does it where no variable is known (third_party/forked/golang/expansion)."""
    return re.sub(r"\$\$", "$", text)


# Who and where


def test_a_pod_is_recognised_as_that_of_its_attempt() -> None:
    made = pod(launch(outputs=("a", "b")), KubernetesSettings(), instance="one", namespace="runs", known={})

    assert (made["metadata"]["name"], made["metadata"]["namespace"]) == (pod_name(KEY, "one"), "runs")
    assert attempt_of(made) == KEY
    assert is_ours(made, KEY, "one")
    assert outputs_of(made) == ("a", "b")


def test_labels_of_the_settings_are_added_and_never_replace_ours() -> None:
    settings = KubernetesSettings(
        labels={"team": "ml", "fusemld.io/run": "x"}, annotations={"a/b": "c", "fusemld.io/run": "x"}
    )

    made = pod(launch(), settings, instance="one", namespace="runs", known={}, more_annotations={"d/e": "f"})

    assert made["metadata"]["labels"].items() >= {"team": "ml", "fusemld.io/run": KEY.run}.items()
    wanted = {"a/b": "c", "d/e": "f", "fusemld.io/run": KEY.run}
    assert made["metadata"]["annotations"].items() >= wanted.items()


def test_a_pod_is_as_bare_as_it_can_be() -> None:
    assert spec(launch()) == {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "step",
                "image": "trainer:1",
                "env": [{"name": "FUSEML_RESULTS_DIR", "value": "/tekton/results"}],
            }
        ],
    }


def test_settings_reach_the_pod_and_every_container() -> None:
    settings = KubernetesSettings(
        service_account="runner",
        image_pull_secrets=("registry",),
        image_pull_policy="Always",
        node_selector={"disk": "ssd"},
        tolerations=({"key": "gpu", "operator": "Exists"},),
        pod_security_context={"runAsUser": 1000},
        security_context={"readOnlyRootFilesystem": True},
        priority_class="low",
        helper_image="mirror/busybox:1",
    )

    made = spec(launch(outputs=("x",), codesets=(codeset(),)), settings)

    assert (
        made.items()
        >= {
            "serviceAccountName": "runner",
            "automountServiceAccountToken": True,
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "securityContext": {"runAsUser": 1000},
            "priorityClassName": "low",
        }.items()
    )
    everyone = [*made["initContainers"], *made["containers"]]
    assert [one["image"] for one in everyone] == ["mirror/busybox:1", "mirror/busybox:1", "trainer:1"]
    assert all(one["securityContext"] == {"readOnlyRootFilesystem": True} for one in everyone)
    assert all(one["imagePullPolicy"] == "Always" for one in everyone)


@pytest.mark.parametrize(("timeout_s", "deadline_s"), [(None, None), (60, 3660), (1e12, 2**31 - 1)])
def test_a_pod_does_not_outlive_its_timeout_for_long_without_a_daemon(
    timeout_s: float | None, deadline_s: int | None
) -> None:
    assert spec(launch(timeout_s=timeout_s)).get("activeDeadlineSeconds") == deadline_s


# What the step sees


@given(st.text(alphabet="$()aé ", max_size=20))
def test_kubernetes_replaces_nothing_in_what_the_user_wrote(text: str) -> None:
    step = containers(launch(command=(text,), args=(text,), env={"X": text}))[STEP]

    written = {one["name"]: one["value"] for one in step["env"]}
    assert [expanded(one) for one in (*step["command"], *step["args"], written["X"])] == [text] * 3


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [
        (None, None, {"command": ["run"]}),
        (None, ("a",), {"args": ["a"]}),
        (("c",), None, {"command": ["c"]}),
        (("c",), ("a",), {"command": ["c"], "args": ["a"]}),
        ((), None, {"command": []}),
    ],
)
def test_the_default_command_is_for_steps_that_say_nothing(
    command: tuple[str, ...] | None, args: tuple[str, ...] | None, expected: Json
) -> None:
    step = containers(launch(command=command, args=args), KubernetesSettings(default_command=("run",)))[STEP]

    assert {name: step[name] for name in ("command", "args") if name in step} == expected


def test_the_first_codeset_is_the_working_directory() -> None:
    asked = launch(codesets=(codeset("/project/"), codeset("/project/data", name="data")))

    step = containers(asked)[STEP]

    assert step["workingDir"] == variables(asked)["FUSEML_CODESET_DIR"] == "/project"
    assert [mount["mountPath"] for mount in step["volumeMounts"]] == ["/project", "/project/data"]


def test_env_of_the_step_wins() -> None:
    asked = launch(env={"FUSEML_RESULTS_DIR": "/mine", "A": "1"}, secret_env={"A": CANARY})

    assert variables(asked) == {"FUSEML_RESULTS_DIR": "/mine", "A": "<secret>"}


@pytest.mark.parametrize("value", ["\udcff", "x" * 131_072])
def test_what_no_variable_of_a_pod_can_hold_is_refused(value: str) -> None:
    with pytest.raises(StartError, match=r"cannot start .*: variable BIG "):
        spec(launch(env={"BIG": value}))
    with pytest.raises(StartError, match=r"cannot start .*: variable BIG "):
        spec(launch(secret_env={"BIG": value}))


def test_a_command_that_is_no_text_is_refused() -> None:
    with pytest.raises(StartError, match="its command holds bytes that are not UTF-8"):
        spec(launch(args=("ok", "\udcff")))


# Secrets


def test_no_secret_stands_in_a_pod() -> None:
    credentials = {"username": "ann", "password": CANARY, "ssh_key": CANARY}
    asked = launch(
        secret_env={"PASSWORD": CANARY, "odd name": CANARY},
        secrets=frozenset({CANARY}),
        codesets=(codeset(digest="large", url="https://git.example.org/x.git", credentials=credentials),),
    )

    made = pod(asked, KubernetesSettings(), instance="one", namespace="runs", known={})

    assert CANARY not in json.dumps(made)
    assert base64.b64encode(CANARY.encode()).decode() not in json.dumps(made)
    assert has_secret(made)


def test_every_reference_of_the_pod_is_a_key_of_its_one_immutable_secret() -> None:
    credentials = {"username": "ann", "password": "pw"}
    asked = launch(
        secret_env={"B": "b", "A": "a", "odd name": "c"},
        codesets=(
            codeset(),
            codeset("/large", "large", url="https://git.example.org/x.git", credentials=credentials),
        ),
    )

    made, found = secret_of(asked), containers(asked)

    assert made is not None
    assert made["immutable"] is True
    assert made["metadata"]["name"] == pod_name(KEY, "one")
    assert is_ours(made, KEY, "one")
    values = {key: base64.b64decode(value).decode() for key, value in made["data"].items()}
    assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) for key in values)
    seen = {
        one["name"]: values.pop(one["valueFrom"]["secretKeyRef"]["key"])
        for container in found.values()
        for one in container.get("env", ())
        if "valueFrom" in one
    }
    assert seen == {"A": "a", "B": "b", "odd name": "c", "GIT_1_USERNAME": "ann", "GIT_1_PASSWORD": "pw"}
    assert values == {}


def test_an_attempt_without_credentials_needs_no_secret() -> None:
    asked = launch(env={"A": "1"}, codesets=(codeset(credentials={"password": CANARY}),))

    assert secret_of(asked) is None
    assert not has_secret(pod(asked, KubernetesSettings(), instance="one", namespace="runs", known=KNOWN))


def test_credentials_that_no_secret_can_hold_are_refused() -> None:
    many = {f"V{number}": "x" * 100_000 for number in range(11)}

    with pytest.raises(StartError, match="a Secret takes at most 1048576"):
        secret_of(launch(secret_env=many))


# Codesets and outputs


def test_helpers_are_there_only_where_they_are_needed() -> None:
    large = codeset("/large", "large", url="https://git.example.org/x.git")
    by_what = {
        (): launch(),
        (SIDECAR,): launch(outputs=("a", "b", "c", "d")),
        (SIDECAR, f"{SIDECAR}-1"): launch(outputs=("a", "b", "c", "d", "e")),
        (UNPACK,): launch(codesets=(codeset(), codeset("/more"))),
        (FETCH,): launch(codesets=(large,)),
        (UNPACK, FETCH, SIDECAR): launch(codesets=(codeset(), large), outputs=("x",)),
    }

    assert {
        tuple(one["name"] for one in spec(asked).get("initContainers", ())): asked for asked in by_what.values()
    } == by_what


def test_a_small_output_comes_as_the_termination_message() -> None:
    made = pod(
        launch(outputs=("url",), small_output=True),
        KubernetesSettings(),
        instance="one",
        namespace="runs",
        known={},
    )

    assert "initContainers" not in made["spec"]
    assert "volumes" not in made["spec"]
    assert made["spec"]["containers"][0]["terminationMessagePath"] == "/tekton/results/url"
    assert small_output(made) == "url"


def test_outputs_are_small_only_if_there_is_just_one() -> None:
    asked = launch(outputs=("a", "b"), small_output=True)

    assert SIDECAR in containers(asked)
    assert small_output({"spec": spec(asked)}) is None


def test_the_sidecar_is_restarted_and_cannot_write() -> None:
    sidecar = containers(launch(outputs=("x",)))[SIDECAR]

    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["volumeMounts"] == [{"name": "results", "mountPath": "/tekton/results", "readOnly": True}]


@pytest.mark.parametrize("url", ["", "/srv/repositories/x.git", "file:///srv/repositories/x.git"])
def test_a_large_codeset_that_git_cannot_fetch_in_a_pod_is_refused_with_the_ways_out(url: str) -> None:
    asked = launch(codesets=(codeset(digest="large", url=url),))

    for make in (spec, secret_of):
        with pytest.raises(StartError, match=r"default/digits.*kubernetes\.codeset_limit_bytes.*git repository"):
            make(asked)


# Resources


def resources(
    requests: dict[str, str], limits: dict[str, str], settings: KubernetesSettings | None = None
) -> Json:
    asked = launch(requests=requests, limits=limits, codesets=(codeset(),), outputs=("x",))
    return {name: one.get("resources", {}) for name, one in containers(asked, settings).items()}


def test_settings_say_the_resources_of_which_a_step_says_nothing() -> None:
    settings = KubernetesSettings(requests={"cpu": "1", "memory": "4Gi"}, limits={"memory": "8Gi"})

    assert resources({}, {}, settings)[STEP] == {"requests": dict(settings.requests), "limits": {"memory": "8Gi"}}
    assert resources({"cpu": "2"}, {}, settings)[STEP]["requests"] == {"cpu": "2", "memory": "4Gi"}
    assert resources({}, {"memory": "1Gi"}, settings)[STEP] == {
        "requests": {"cpu": "1"},
        "limits": {"memory": "1Gi"},
    }
    assert all(found == {} for found in resources({}, {}).values())


def test_helpers_say_what_the_step_says_so_that_a_quota_takes_the_pod() -> None:
    found = resources({"cpu": "2", "memory": "4Gi"}, {"memory": "8Gi", "nvidia.com/gpu": "1"})

    assert found[UNPACK] == {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}}
    assert found[SIDECAR] == {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}


@pytest.mark.parametrize("requests", [{}, {"cpu": "2", "memory": "4Gi"}])
def test_a_guaranteed_step_stays_guaranteed(requests: dict[str, str]) -> None:
    for found in resources(requests, {"cpu": "2", "memory": "4Gi"}).values():
        assert found.get("requests", found["limits"]) == found["limits"]
