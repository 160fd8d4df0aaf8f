"""What is created, run by a real kubelet: `kubectl create` would do no more."""

from __future__ import annotations

import base64
import json
import random
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from fusemld.executors.kubernetes.bundles import Bundle, Entry, bundle, config_maps, pack
from fusemld.executors.kubernetes.diagnosis import Diagnosis, Patience, Phase, diagnose
from fusemld.executors.kubernetes.pod import STEP, pod, secret, sidecars, small_output
from fusemld.executors.kubernetes.results import Results, from_message, parse, together
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.hooks.clusters import Json
from fusemld.hooks.executors import Launch, MountedCodeset
from fusemld.model.run import AttemptKey, Ending
from tests.cluster.api import Api
from tests.cluster.images import BASE
from tests.cluster.local import LocalCluster

pytestmark = pytest.mark.cluster

INSTANCE = "tests"
SETTINGS = KubernetesSettings(helper_image=BASE, git_image=BASE, image_pull_policy="Never")
RESTRICTED = msgspec.structs.replace(
    SETTINGS,
    pod_security_context={
        "runAsNonRoot": True,
        "runAsUser": 1234,
        "runAsGroup": 1234,
        "fsGroup": 4321,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
    security_context={
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    },
)
NOISE = random.Random(0).randbytes(1_000_000)
DEADLINE_S = 60.0


class Runner:
    """Creates the objects of an attempt, waits for its end and reads what it leaves."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._path = f"/api/v1/namespaces/{namespace}"

    def bundle(self, *entries: Entry) -> Bundle:
        packed = pack(entries, 1 << 30)
        assert packed is not None
        for one in config_maps(packed, INSTANCE, self._namespace):
            self._api.create(f"{self._path}/configmaps", one)
        return bundle(packed, INSTANCE)

    def run(
        self,
        script: str,
        settings: KubernetesSettings = SETTINGS,
        known: dict[str, Bundle] | None = None,
        **more: object,
    ) -> tuple[Diagnosis, Json]:
        key = AttemptKey("demo-261123-081502-fgk3f9x2", f"Step_{random.randrange(10**6)}", 1)
        asked = msgspec.structs.replace(Launch(key=key, image=BASE, command=("sh", "-euc", script)), **more)
        confidential = secret(asked, instance=INSTANCE, namespace=self._namespace, known=known or {})
        if confidential is not None:
            self._api.create(f"{self._path}/secrets", confidential)
        made = pod(asked, settings, instance=INSTANCE, namespace=self._namespace, known=known or {})
        self._api.create(f"{self._path}/pods", made)
        until = time.monotonic() + DEADLINE_S
        while True:
            seen = self._api.get(f"{self._path}/pods/{made['metadata']['name']}")
            found = diagnose(seen, None, [], time.time(), Patience())
            if found.phase is Phase.OVER:
                return found, seen
            assert time.monotonic() < until, (found, seen["status"])
            time.sleep(0.1)

    def log(self, seen: Json, container: str = STEP) -> bytes:
        return self._api.call("GET", f"{self._path}/pods/{seen['metadata']['name']}/log?container={container}")

    def outputs(self, seen: Json, *names: str) -> Results:
        return together(parse(self.log(seen, one), some) for one, some in sidecars(names).items())


@pytest.fixture
def runner(node: LocalCluster, api: Api, namespace: str) -> Runner:
    return Runner(api, namespace)


def codesets(*paths: str) -> tuple[MountedCodeset, ...]:
    return tuple(
        MountedCodeset(
            path=path, project="my project", name=f"code{number}", version="c", digest="d", source=Path("/nowhere")
        )
        for number, path in enumerate(paths)
    )


def test_a_step_finds_its_codesets_its_variables_and_its_secret(runner: Runner) -> None:
    known = {"d": runner.bundle(Entry(path="bin"), Entry(path="bin/run", content=b"#!/bin/sh\necho it runs\n",
                                is_executable=True), Entry(path="latest", target="bin/run"),
                                Entry(path="noise", content=NOISE))}  # fmt: skip
    script = """
        pwd; ./latest; sha256sum <noise; cat .fuseml/_project; echo; cat inner/of/.fuseml/_project; echo
        echo more >>noise; echo new >bin/new; rm -r inner/of/bin
        echo "$FUSEML_CODESET_DIR|$FUSEML_RESULTS_DIR|$PLAIN|$(printf %s "$SECRET" | base64)"
        test ! -e /var/run/secrets/kubernetes.io
    """

    found, seen = runner.run(
        script,
        known=known,
        codesets=codesets("/project", "/project/inner/of"),
        env={"PLAIN": "$(HOME) $$"},
        secret_env={"SECRET": "s3cr$(HOME)et\n"},
        requests={"cpu": "20m", "memory": "32Mi"},
    )

    assert found.outcome is not None
    assert found.outcome.ending is Ending.SUCCEEDED, (found, seen["status"])
    lines = runner.log(seen).decode().splitlines()
    assert lines[:2] + lines[3:5] == ["/project", "it runs", "code0", "code1"]
    secret_text = base64.b64encode(b"s3cr$(HOME)et\n").decode()
    assert lines[5] == f"/project|/tekton/results|$(HOME) $$|{secret_text}"
    assert "s3cr" not in json.dumps(seen)


def test_outputs_of_any_kind_are_handed_over(runner: Runner) -> None:
    script = """
        head -c 300000 /dev/urandom >/tekton/results/large; sha256sum </tekton/results/large
        printf '\\000\\377\\n' >/tekton/results/binary
        : >/tekton/results/empty
        head -c 1048577 /dev/zero >/tekton/results/huge
    """
    names = ("large", "binary", "empty", "missing", "huge")

    found, seen = runner.run(script, outputs=names)

    results = runner.outputs(seen, *names)
    assert found.outcome is not None
    assert found.outcome.ending is Ending.SUCCEEDED
    assert results.is_complete
    assert {name: len(value) for name, value in results.values.items()} == {
        "large": 300_000,
        "binary": 3,
        "empty": 0,
    }
    assert results.missing == ("missing",)
    assert list(results.refused) == ["huge"]


def test_the_sidecar_ends_as_soon_as_it_has_said_everything(runner: Runner) -> None:
    found, seen = runner.run("true", outputs=("x",))

    sidecar = seen["status"]["initContainerStatuses"][0]["state"]["terminated"]
    assert sidecar["exitCode"] == 0
    assert found.ended_at is not None
    assert datetime.fromisoformat(sidecar["finishedAt"]).timestamp() - found.ended_at < 10
    assert runner.outputs(seen, "x").missing == ("x",)


def test_a_small_output_is_handed_over_without_any_helper(runner: Runner) -> None:
    found, seen = runner.run("printf 'hällo\\n' >/tekton/results/url", outputs=("url",), small_output=True)

    assert found.outcome is not None
    assert found.outcome.ending is Ending.SUCCEEDED
    assert small_output(seen) == "url"
    message = seen["status"]["containerStatuses"][0]["state"]["terminated"]["message"]
    assert from_message(message, "url").values == {"url": "hällo\n".encode()}


def test_all_of_it_works_in_a_namespace_that_allows_hardly_anything(
    runner: Runner, api: Api, namespace: str
) -> None:
    api.patch(
        f"/api/v1/namespaces/{namespace}",
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
    )
    quota = {"requests.cpu": "1", "requests.memory": "1Gi", "limits.cpu": "1", "limits.memory": "1Gi"}
    api.create(
        f"/api/v1/namespaces/{namespace}/resourcequotas", {"metadata": {"name": "quota"}, "spec": {"hard": quota}}
    )
    known = {"d": runner.bundle(Entry(path="a.txt", content=b"one"))}

    found, seen = runner.run(
        "umask 077; id -u; echo two >>a.txt; mkdir new; cp a.txt /tekton/results/x",
        RESTRICTED,
        known,
        codesets=codesets("/project"),
        outputs=("x",),
        limits={"cpu": "200m", "memory": "64Mi"},
    )

    assert found.outcome is not None
    assert found.outcome.ending is Ending.SUCCEEDED, (found, seen["status"])
    assert runner.log(seen) == b"1234\n"
    assert runner.outputs(seen, "x").values == {"x": b"onetwo\n"}
    assert seen["status"]["qosClass"] == "Guaranteed"
