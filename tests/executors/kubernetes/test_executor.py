from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import anyio
import msgspec
import pytest

from fusemld.executors.kubernetes import course, executor
from fusemld.executors.kubernetes.names import labels, notes, pod_name
from fusemld.executors.kubernetes.sweeping import remove_everything
from fusemld.executors.masking import HOLDS_CREDENTIAL
from fusemld.hooks.clusters import MANAGED_BY, Json
from fusemld.hooks.executors import AttemptFinished, AttemptStarted, MountedCodeset
from fusemld.kube.client import KubeCluster
from fusemld.model.errors import StartError, UnavailableError
from fusemld.model.run import AttemptKey, Ending
from tests.cluster import role
from tests.cluster.api import Api
from tests.cluster.images import BASE
from tests.cluster.local import LocalCluster
from tests.executors.kubernetes.room import SETTINGS, Site, launch

pytestmark = pytest.mark.cluster

TOKEN = "canary-7d1c-value"
SECRET = {"secret_env": {"TOKEN": TOKEN}, "secrets": frozenset({TOKEN})}


@pytest.fixture
def codeset(tmp_path: Path) -> MountedCodeset:
    source = tmp_path / "codeset"
    source.mkdir()
    (source / "train.txt").write_text("the content\n")
    return MountedCodeset(
        path="/project", project="team", name="mnist", version="abc", digest="d-1", source=source
    )


async def test_a_step_is_one_pod_that_leaves_its_log_and_outputs_and_then_nothing(
    site: Site, codeset: MountedCodeset
) -> None:
    script = "cat train.txt .fuseml/_org; printf 'a\\0b' >/tekton/results/one; echo 2 >/tekton/results/two"
    async with site.room() as room:
        key = await room.shell("train", script, outputs=("one", "two"), codesets=(codeset,))

        ended = await room.ended(key)
        await room.executor.forget(key)
        await room.until_gone("pods", "secrets")

        assert ended.outcome.ending is Ending.SUCCEEDED
        assert ended.outputs == {"one": "a\0b", "two": "2"}
        assert room.log(key) == b"the content\nteam"
        assert ended.outcome.tail == "the content\nteam"
        assert [type(one) for one in room.reports if not hasattr(one, "text")] == [AttemptStarted, AttemptFinished]


async def test_every_output_may_have_its_mebibyte_however_many_there_are(site: Site) -> None:
    names = tuple(f"x{number}" for number in range(9))
    script = "for x in 0 1 2 3 4 5 6 7 8; do (head -c 1048575 /dev/urandom; printf .) >/tekton/results/x$x; done"
    async with site.room() as room:
        key = await room.shell("many", script + "; cd /tekton/results; sha256sum x*", outputs=names)

        ended = await room.ended(key)

        digests = [hashlib.sha256(ended.outputs[name].encode("utf-8", "surrogateescape")) for name in names]
        told = "\n".join(f"{digest.hexdigest()}  {name}" for digest, name in zip(digests, names, strict=True))
        assert room.log(key).decode() == told + "\n"


async def test_a_short_step_costs_one_create_one_delete_and_one_look_at_its_log(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(course, "_FOLLOW_AFTER_S", 30.0)  # a node under load takes its time
    async with site.room() as room:
        before = room.cluster.requests.copy()
        key = await room.shell("a", "echo done")
        await room.ended(key)
        await room.executor.forget(key)
        await room.until_gone("pods")
        spent = room.cluster.requests - before

    of_steps = {name: count for name, count in spent.items() if name.split()[0] in ("create", "get", "delete")}
    assert of_steps == {"create pods": 1, "get pods/log": 1, "delete pods": 1}


@pytest.mark.parametrize(
    ("script", "ending", "message"),
    [
        ("echo wrong >&2; exit 3", Ending.PROGRAM_FAILED, "exit status 3"),
        (
            "true",
            Ending.OUTPUT_MISSING,
            "it ended well but did not write its output x: expected in /tekton/results/x",
        ),
        ("echo $TOKEN >/tekton/results/x", Ending.OUTPUT_REFUSED, f"output x is refused: {HOLDS_CREDENTIAL}"),
    ],
)
async def test_an_attempt_that_does_not_succeed_says_why(
    site: Site, script: str, ending: Ending, message: str
) -> None:
    async with site.room() as room:
        key = await room.shell("a", script, outputs=("x",), **SECRET)

        ended = await room.ended(key)

        assert (ended.outcome.ending, ended.outcome.message) == (ending, message)
        assert ended.outputs == {}


async def test_events_that_may_be_read_only_later_are_read_then(
    site: Site, api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_EVENTS_AGAIN_S", 0.2)
    path = role.PATHS["Role"].format(namespace, "fusemld")
    rules = role.documents()["Role"]["rules"]
    api.patch(path, {"rules": [rule for rule in rules if "events" not in rule["resources"]]})
    async with site.room() as room:
        with anyio.fail_after(30):
            while not room.cluster.requests["list events"]:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.05)
        api.patch(path, {"rules": rules})

        with anyio.fail_after(30):
            while not room.cluster.requests["watch events"]:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.05)


async def test_an_attempt_is_known_from_its_launch_until_it_is_forgotten(site: Site) -> None:
    other = AttemptKey("r0", "never", 1)
    async with site.room() as room:
        key = await room.shell("a", "true")
        unknown = [await room.executor.unknown([key, other])]
        await room.ended(key)
        unknown.append(await room.executor.unknown([key, other]))
        await room.executor.forget(key)
        unknown.append(await room.executor.unknown([key, other]))

        assert unknown == [{other}, {other}, {key, other}]


async def test_launching_again_makes_no_second_pod_and_reports_nothing_twice(site: Site) -> None:
    async with site.room() as room:
        asked = launch("a", "echo once")
        await room.launch(asked)
        await room.launch(asked)
        await room.ended(asked.key)
        await room.launch(asked)

        assert room.cluster.requests["create pods"] == 1
        assert sum(isinstance(one, AttemptFinished) for one in room.reports) == 1


async def test_a_step_that_is_told_to_stop_gets_its_time(site: Site) -> None:
    async with site.room() as room:
        key = await room.shell("a", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
        await room.started(key)

        await room.executor.kill(key, 10)
        ended = await room.ended(key)

        assert ended.outcome.ending is Ending.CANCELLED
        assert ended.outcome.message == "it was told to stop and ended with exit status 7"
        assert room.log(key) == b"up\nbye\n"


async def test_an_attempt_told_to_stop_while_it_waits_ends(site: Site) -> None:
    async with site.room() as room:
        key = await room.shell("a", "true", requests={"cpu": "4000"})
        await room.noted(key, "unschedulable: ")

        await room.executor.kill(key, 10)
        ended = await room.ended(key)

        assert ended.outcome.ending is Ending.CANCELLED


@pytest.mark.parametrize(
    ("wrong", "ending"),
    [
        ({"image": "localhost/absent:1"}, Ending.IMAGE_UNAVAILABLE),
        ({"requests": {"cpu": "4000"}}, Ending.UNSCHEDULABLE),
    ],
)
async def test_time_alone_ends_what_cannot_start(site: Site, wrong: dict[str, object], ending: Ending) -> None:
    impatient = msgspec.structs.replace(SETTINGS, image_pull_s=1.0, unschedulable_s=1.0)
    async with site.room(impatient) as room:
        key = await room.shell("a", "true", **wrong)

        ended = await room.ended(key)
        await room.executor.forget(key)
        await room.until_gone("pods")

        assert ended.outcome.ending is ending
        assert room.log(key) == b""


async def test_a_pod_that_its_node_does_not_start_is_given_up(site: Site, node: LocalCluster) -> None:
    """Its image is pulled from a registry that never says anything."""
    impatient = msgspec.structs.replace(SETTINGS, image_pull_policy="IfNotPresent", starting_s=5.0)
    async with site.room(impatient) as room:
        with socket.create_server((node.address, 0)) as registry:
            image = f"{node.address}:{registry.getsockname()[1]}/silent:1"
            key = await room.shell("a", "true", image=image)
            await room.noted(key, "it is being started on node")
            ended = await room.ended(key)
        await room.executor.forget(key)
        await room.until_gone("pods")

        assert ended.outcome.ending is Ending.NODE_LOST
        assert ended.outcome.message == f"it is being started on node {node.node_name}"


async def test_a_pod_that_somebody_deletes_ends_its_attempt_with_what_is_known_of_its_log(site: Site) -> None:
    async with site.room() as room:
        key = await room.shell("a", "echo up; sleep 100")
        await room.started(key)

        path = f"/api/v1/namespaces/{room.cluster.namespace}/pods/{pod_name(key, site.instance)}"
        await room.admin.delete(path, grace_s=1)
        ended = await room.ended(key)

        assert ended.outcome.ending is Ending.DELETED


async def test_a_restarted_daemon_goes_on_where_the_last_one_was_killed(site: Site) -> None:
    script = "for n in 1 2 3 4 5 6 7 8; do echo $n $TOKEN; sleep 0.4; done; echo well >/tekton/results/x"
    async with site.room() as room:
        key = await room.shell("a", script, outputs=("x",), **SECRET)
        await room.started(key)
        with anyio.fail_after(20):
            while room.log(key).count(b"\n") < 3:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.02)

    async with site.room(recorded=[key]) as again:
        assert again.known == {key}
        ended = await again.ended(key)

        assert ended.outputs == {"x": "well"}
        assert again.log(key) == b"".join(b"%d ***\n" % n for n in range(1, 9))
        assert again.cluster.requests["create pods"] == 0


async def test_an_attempt_that_ended_while_no_daemon_was_there_is_reported(site: Site) -> None:
    async with site.room() as room:
        key = await room.shell("a", "sleep 0.3; echo $TOKEN; exit 4", **SECRET)
        path = f"/api/v1/namespaces/{room.cluster.namespace}/pods/{pod_name(key, site.instance)}"

    async with (
        connect_only(site) as cluster,
        cluster.states(path.rpartition("/")[0], path.rpartition("/")[2]) as seen,
    ):
        async for pod in seen:
            if pod is not None and pod["status"]["phase"] == "Failed":
                break

    async with site.room(recorded=[key]) as again:
        ended = await again.ended(key)
        await again.executor.forget(key)
        await again.until_gone("pods", "secrets")

        assert ended.outcome.exit_status == 4
        assert again.log(key) == b"***\n"


async def test_an_attempt_whose_pod_is_not_there_after_a_restart_is_lost_and_never_run_again(site: Site) -> None:
    asked = launch("a", "true", recovered=True, **SECRET)
    async with site.room(recorded=[asked.key]) as room:
        assert room.known == frozenset()

        await room.launch(asked)
        ended = await room.ended(asked.key)
        await room.executor.forget(asked.key)
        await room.until_gone("pods", "secrets")

        assert ended.outcome.ending is Ending.LOST
        assert room.cluster.requests["create pods"] == 0


async def test_pods_of_attempts_that_nobody_waits_for_go_with_their_secrets(site: Site) -> None:
    async with site.room() as room:
        await room.shell("a", "sleep 100", **SECRET)

    async with site.room() as again:
        await again.until_gone("pods", "secrets")
        late = AttemptKey("run", "late", 1)
        await again.admin.create(f"/api/v1/namespaces/{again.cluster.namespace}/pods", a_pod(late, site.instance))
        await again.until_gone("pods")

        assert again.reports == []


async def test_pods_of_a_run_that_nobody_can_read_go_on_and_their_ends_are_kept(site: Site) -> None:
    asked = launch("a", "echo hello; sleep 3", **SECRET)
    async with site.room() as room:
        await room.launch(asked)
        await room.started(asked.key)

    async with site.room(spared=("run",)) as room:
        ended = await room.ended(asked.key)
        pods, secrets = await room.names("pods"), await room.names("secrets")

        assert ended.outcome.ending is Ending.SUCCEEDED
        assert room.log(asked.key) == b"hello\n"
        assert (len(pods), len(secrets)) == (1, 1)
    async with site.room(recorded=[asked.key]) as room:
        again = await room.ended(asked.key)
        await room.executor.forget(asked.key)
        await room.until_gone("pods", "secrets")

    assert again.outcome.ending is Ending.SUCCEEDED


async def test_a_pod_whose_labels_somebody_took_away_goes_with_its_attempt(site: Site) -> None:
    asked = launch("a", "sleep 60")
    async with site.room() as room:
        await room.launch(asked)
        await room.started(asked.key)
        pods = f"/api/v1/namespaces/{room.cluster.namespace}/pods"
        name = pod_name(asked.key, site.instance)
        await room.admin.patch(f"{pods}/{name}", {"metadata": {"labels": {MANAGED_BY: None}}})
        ended = await room.ended(asked.key)
        await room.executor.forget(asked.key)
        with anyio.fail_after(60):
            async with room.admin.states(pods, name) as states:
                while await anext(states) is not None:
                    """It goes as soon as its grace time is over."""

    assert ended.outcome.ending is Ending.DELETED


async def test_a_pod_of_the_same_name_that_is_somebody_elses_is_left_alone(site: Site) -> None:
    key = AttemptKey("run", "a", 1)
    foreign = a_pod(key, site.instance)
    foreign["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "another-tool"}
    async with site.room() as room:
        pods = f"/api/v1/namespaces/{room.cluster.namespace}/pods"
        made = await room.admin.create(pods, foreign)

        with pytest.raises(StartError, match="belongs to another-tool, and it is left alone"):
            await room.shell("a", "true")
        await room.executor.kill(key, 1)
        await room.executor.forget(key)
        await room.shell("b", "true")

        found = await room.admin.get(f"{pods}/{made['metadata']['name']}")
        assert found["metadata"]["uid"] == made["metadata"]["uid"]
        assert "deletionTimestamp" not in found["metadata"]


async def test_a_secret_of_the_same_name_that_is_somebody_elses_is_left_alone(site: Site) -> None:
    asked = launch("a", "true", **SECRET)
    async with site.room() as room:
        path = f"/api/v1/namespaces/{room.cluster.namespace}/secrets"
        name = pod_name(asked.key, site.instance)
        made = await room.admin.create(path, {"metadata": {"name": name}, "stringData": {"TOKEN": "theirs"}})

        with pytest.raises(StartError, match="belongs to somebody else, and it is left alone"):
            await room.launch(asked)
        await room.executor.forget(asked.key)
        await room.shell("b", "true")

        assert (await room.admin.get(f"{path}/{name}"))["metadata"]["uid"] == made["metadata"]["uid"]
    async with site.room(recorded=[asked.key]) as again:
        await again.executor.forget(asked.key)
        await again.until_gone("pods", "secrets")

        assert (await again.admin.get(f"{path}/{name}"))["metadata"]["uid"] == made["metadata"]["uid"]


async def test_a_codeset_that_somebody_removed_from_the_cluster_is_not_the_fault_of_the_step(
    site: Site, codeset: MountedCodeset
) -> None:
    impatient = msgspec.structs.replace(SETTINGS, misconfigured_s=1.0)
    async with site.room(impatient) as room:
        for step in ("first", "after the sweep"):
            key = await room.shell(step, "true", codesets=(codeset,))
            await room.ended(key)
            await room.executor.forget(key)
            await room.until_gone("pods")  # kubelet remembers what pods on its node mount
        for name in await room.names("configmaps"):
            await room.admin.delete(f"/api/v1/namespaces/{room.cluster.namespace}/configmaps/{name}")

        lost = await room.ended(await room.shell("b", "true", codesets=(codeset,)))
        again = await room.launch(launch("b", "true", codesets=(codeset,), key=AttemptKey("run", "b", 2)))

        assert lost.outcome.ending is Ending.DELETED
        assert "not found" in lost.outcome.message
        assert (await room.ended(again)).outcome.ending is Ending.SUCCEEDED


async def test_a_quota_that_is_used_up_is_waited_for(site: Site) -> None:
    async with site.room() as room:
        quota = f"/api/v1/namespaces/{room.cluster.namespace}/resourcequotas"
        body = {"metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}}
        await room.admin.create(quota, body)
        await quota_in_force(room.admin, f"{quota}/full")
        asked = launch("a", "true")

        with pytest.raises(UnavailableError, match="exceeded quota: full"):
            await room.launch(asked)
        await room.admin.delete(f"{quota}/full")
        await launch_patiently(room.executor.launch, asked)

        assert (await room.ended(asked.key)).outcome.ending is Ending.SUCCEEDED


async def test_what_the_cluster_does_not_accept_is_told_in_its_words(site: Site) -> None:
    async with site.room() as room:
        with pytest.raises(
            StartError, match=r"the cluster refuses: .*requests.*must be less than or equal to cpu limit of 1"
        ):
            await room.shell("a", "true", requests={"cpu": "2"}, limits={"cpu": "1"})


async def test_finished_pods_stay_as_long_as_the_settings_say_also_over_a_restart(site: Site) -> None:
    keeping = msgspec.structs.replace(SETTINGS, keep_finished_s=3600)
    async with site.room(keeping) as room:
        key = await room.shell("a", "true", **SECRET)
        await room.ended(key)
        await room.executor.forget(key)
        await room.until_gone("secrets")
    async with site.room(keeping) as room:
        await room.ended(await room.shell("b", "true"))
        assert pod_name(key, site.instance) in await room.names("pods")

    async with site.room(msgspec.structs.replace(SETTINGS, keep_finished_s=0.1)) as room:
        await room.until_gone("pods")


async def test_everything_of_an_instance_can_be_removed(site: Site, codeset: MountedCodeset) -> None:
    async with site.room() as room:
        await room.started(await room.shell("a", "sleep 100", codesets=(codeset,), **SECRET))
        await room.shell("b", "sleep 100")

    async with connect_only(site) as cluster:
        removed = await remove_everything(cluster)

    async with site.room() as room:
        assert (removed.pods, removed.secrets, removed.config_maps) == (2, 1, 1)
        assert await room.names("secrets") | await room.names("configmaps") == set()


async def test_the_executor_says_how_long_ago_it_heard_of_its_pods(site: Site) -> None:
    async with site.room() as room:
        condition = room.executor.condition()

    assert condition.ok
    assert condition.message == f"the pods of {room.cluster.name} were heard of 0 s ago"


async def launch_patiently(start: object, asked: object) -> None:
    with anyio.fail_after(30):
        while True:
            try:
                await start(asked)  # type: ignore[operator] # of an executor
            except UnavailableError:
                await anyio.sleep(0.1)
            else:
                return


async def quota_in_force(cluster: KubeCluster, path: str) -> None:
    with anyio.fail_after(30):
        while "used" not in (await cluster.get(path)).get("status", {}):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.05)


def connect_only(site: Site):  # type: ignore[no-untyped-def] # as `connect`
    from fusemld.kube.connecting import connect

    return connect(site.connection, instance=site.instance)


def a_pod(key: AttemptKey, instance: str) -> Json:
    return {
        "metadata": {
            "name": pod_name(key, instance),
            "labels": labels(key, "flow", instance),
            "annotations": notes(key, "flow"),
        },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {"name": "step", "image": BASE, "imagePullPolicy": "Never", "command": ["sleep", "100"]}
            ],
        },
    }
