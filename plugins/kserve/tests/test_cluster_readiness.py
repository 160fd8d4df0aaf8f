"""When a model that was applied to a cluster serves, and when it never will."""

from __future__ import annotations

from pathlib import Path

import pytest
from fusemld_kserve.manifests import RUN

from fusemld.hooks.services import ServiceAddress
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import StartError
from tests.cluster import role
from tests.cluster.api import Api
from tests.cluster.serving import FAILED, READY, ClusterWorld, predictor_deployment, remembered

pytestmark = [pytest.mark.cluster, pytest.mark.services, pytest.mark.usefixtures("inferenceservices")]


@pytest.mark.usefixtures("impatient")
async def test_a_model_that_cannot_be_loaded_fails_with_kserves_words_and_leaves_nothing(
    world: ClusterWorld,
) -> None:
    context = world.context("onnx")
    async with world.running(context) as running:
        await world.applied("run-1")
        world.says(FAILED)
        error = await running.failure()

    assert isinstance(error, StartError)
    assert "BlockedByFailedLoad: ModelLoadFailed: exit status 1: no CUDA" in str(error)
    assert "Predictor not ready: Crashing: back-off" in str(error)
    await world.until(lambda: world.service() is None)
    assert world.ours() == []
    assert await world.copies() == []
    assert world.book.entries == {}
    assert remembered(world) == []


async def test_a_model_that_is_loaded_after_all_is_served(world: ClusterWorld) -> None:
    """As when the object store did not answer once: kubelet starts the container again."""
    context = world.context("sklearn")
    async with world.running(context) as running:
        await world.applied("run-1")
        world.says(FAILED)
        await world.until(lambda: any("ModelLoadFailed" in note for note in context.notes))
        assert not running.is_over
        await world.serves("run-1")
        await running.url()


async def test_a_service_that_is_deleted_from_outside_while_it_is_waited_for_fails_the_step(
    world: ClusterWorld,
) -> None:
    async with world.running(world.context("sklearn")) as running:
        await world.applied("run-1")
        world.api.delete(world.path)
        error = await running.failure()

    assert "was deleted from outside" in str(error)
    assert world.ours() == []


async def test_readiness_of_the_specification_before_is_not_taken_for_that_of_the_new_one(
    world: ClusterWorld,
) -> None:
    await world.deploy(world.context("sklearn"))

    context = world.context("newer", run="run-2", created_at=2.0)
    async with world.running(context) as running:
        await world.applied("run-2")
        world.calls_ready()
        await world.until(lambda: any("has not updated the predictor yet" in note for note in context.notes))
        assert not running.is_over
        await world.serves("run-2")
        await running.url()


async def test_a_failure_of_the_specification_before_is_not_taken_for_one_of_the_new(world: ClusterWorld) -> None:
    await world.deploy(world.context("sklearn"))
    world.says(FAILED)

    async with world.running(world.context("newer", run="run-2", created_at=2.0)) as running:
        await world.applied("run-2")
        await world.serves("run-2", conditions=READY[:1])
        await world.serves("run-2")
        await running.url()

    assert world.book.entries["app"].run == "run-2"


@pytest.mark.usefixtures("impatient")
async def test_a_failure_that_nothing_contradicts_is_believed_after_a_while(world: ClusterWorld) -> None:
    await world.deploy(world.context("sklearn"))
    world.says(FAILED)

    async with world.running(world.context("newer", run="run-2", created_at=2.0)) as running:
        error = await running.failure()

    assert "BlockedByFailedLoad" in str(error)


async def test_where_kserve_deploys_pods_itself_the_step_waits_for_the_last_of_the_model_before(
    world: ClusterWorld, node: object
) -> None:
    """The Deployment that KServe's controller would make is real, and so are its pods."""
    deployments = f"/apis/apps/v1/namespaces/{world.namespace}/deployments"
    world.api.create(deployments, predictor_deployment("app", {RUN: "run-1"}))
    async with world.running(world.context("sklearn")) as running:
        await world.applied("run-1")
        world.calls_ready()
        await running.url()

    newer = world.context("newer", run="run-2", created_at=2.0)
    async with world.running(newer) as running:
        await world.applied("run-2")
        world.calls_ready()
        await world.until(lambda: any("has not updated the predictor yet" in note for note in newer.notes))
        assert not running.is_over
        world.api.patch(
            f"{deployments}/app-predictor", {"spec": predictor_deployment("app", {RUN: "run-2"})["spec"]}
        )
        await running.url()

    assert any("pods of the predictor" in note or "model before" in note for note in newer.notes)


async def test_a_cluster_that_lacks_what_kserve_wants_to_make_is_told(world: ClusterWorld) -> None:
    async with world.running(world.context("sklearn")) as running:
        await world.serves("run-1", deploymentMode="Knative", conditions=[])
        error = await running.failure()

    assert isinstance(error, StartError)
    assert "KServe wants a Service of serving.knative.dev/v1, which the cluster does not know" in str(error)


@pytest.mark.usefixtures("impatient")
async def test_where_the_deployment_may_not_be_seen_a_first_model_is_served_and_another_refused(
    api: Api, role_kubeconfig: Path, namespace: str, object_store: ServiceAddress, tmp_path: Path
) -> None:
    """With the rights that operators are told to grant, without those about what KServe makes."""
    ours = {"", "serving.kserve.io"}
    rules = [rule for rule in role.documents()["Role"]["rules"] if set(rule["apiGroups"]) <= ours]
    api.patch(role.PATHS["Role"].format(namespace, "fusemld"), {"rules": rules})
    async with connect(Connection(kubeconfig=role_kubeconfig), instance="i-limited") as limited:
        world = ClusterWorld(api, limited, object_store, tmp_path)
        context = world.context("onnx")
        async with world.running(context) as running:
            await world.serves("run-1")
            await running.url()
        async with world.running(world.context("onnx")) as resumed:
            await resumed.url()
        async with world.running(world.context("sklearn", run="run-2", created_at=2.0)) as running:
            error = await running.failure()

    assert any("cannot see the Deployment" in note for note in context.notes)
    assert isinstance(error, StartError)
    assert "allow to list and watch what runs it (deployments of apps/v1)" in str(error)
    assert (await world.applied("run-1"))["metadata"]["generation"] == 1, "it is as it was"
    assert len(world.ours()) == 2, "those of the model that serves"
