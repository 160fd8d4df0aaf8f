"""Updates of a served model: which run has the last word, and what is left of those that did not make it."""

from __future__ import annotations

import pytest
from fusemld_kserve.predictor import KServePredictor

from fusemld.model.errors import ConflictError, NotFoundError, StartError
from tests.cluster.serving import BUCKET, FAILED, ClusterWorld, remembered, served, spec

pytestmark = [pytest.mark.cluster, pytest.mark.services, pytest.mark.usefixtures("inferenceservices")]


async def test_a_newer_run_updates_in_place_and_what_served_before_is_removed(world: ClusterWorld) -> None:
    url = await world.deploy(world.context("onnx"))
    before, service = world.ours(), world.service()
    assert service is not None

    newer = world.context("newer", run="run-2", created_at=2.0)
    assert await world.deploy(newer) == url

    after = world.service()
    assert after is not None
    assert after["metadata"]["uid"] == service["metadata"]["uid"]
    assert served(world) == f"s3://{BUCKET}/newer"
    assert len(world.ours()) == 2
    assert not set(world.ours()) & set(before)
    assert await world.copies() == []
    application = world.book.entries["app"]
    assert (application.run, application.revision) == ("run-2", 2)
    assert remembered(world) == []


@pytest.mark.usefixtures("impatient")
async def test_a_failed_update_puts_back_what_served_before(world: ClusterWorld) -> None:
    await world.deploy(world.context("sklearn"))
    before, ours, entry = spec(world), world.ours(), world.book.entries["app"]

    async with world.running(world.context("onnx", run="run-2", created_at=2.0)) as running:
        await world.applied("run-2")
        world.says(FAILED)
        error = await running.failure()

    assert isinstance(error, StartError)
    assert spec(world) == before
    assert (await world.applied("run-1"))["metadata"]["annotations"]["fusemld.io/run-created-at"] == "1.0"
    assert world.ours() == ours
    assert await world.copies() == []
    assert world.book.entries["app"] == entry
    assert remembered(world) == []


@pytest.mark.usefixtures("impatient")
async def test_what_could_not_be_put_back_is_put_back_by_the_next_update_that_fails(world: ClusterWorld) -> None:
    await world.deploy(world.context("sklearn"))
    before, ours = spec(world), world.ours()
    async with world.running(world.context("newer", run="run-2", created_at=2.0)):
        await world.applied("run-2")

    async with world.running(world.context("onnx", run="run-3", created_at=3.0)) as running:
        await world.applied("run-3")
        world.says(FAILED)
        assert isinstance(await running.failure(), StartError)

    assert spec(world) == before
    assert world.ours() == ours
    assert remembered(world) == []


async def test_a_newer_run_that_has_nothing_to_serve_does_not_disturb_one_that_waits(world: ClusterWorld) -> None:
    async with world.running(world.context("sklearn")) as older:
        await world.applied("run-1")
        async with world.running(world.context("absent", run="run-2", created_at=2.0)) as newer:
            assert isinstance(await newer.failure(), NotFoundError)
        await world.serves("run-1")
        await older.url()

    assert world.book.entries["app"].run == "run-1"
    assert remembered(world) == []


async def test_a_step_that_is_killed_puts_back_what_served_before(world: ClusterWorld) -> None:
    await world.deploy(world.context("sklearn"))
    before, ours = spec(world), world.ours()

    context = world.context("newer", run="run-2", created_at=2.0)
    async with world.running(context):
        await world.applied("run-2")
        context.is_killed = True

    assert spec(world) == before
    assert world.ours() == ours


async def test_a_step_that_ends_with_its_daemon_is_taken_up_by_the_next(world: ClusterWorld) -> None:
    await world.deploy(world.context("sklearn"))
    async with world.running(world.context("newer", run="run-2", created_at=2.0)):
        changed = await world.applied("run-2")

    world.step = KServePredictor()
    async with world.running(world.context("newer", run="run-2", created_at=2.0)) as running:
        await world.serves("run-2")
        await running.url()

    after = await world.applied("run-2")
    assert after["metadata"]["generation"] == changed["metadata"]["generation"], "nothing was applied anew"
    assert world.book.entries["app"].run == "run-2"
    assert len(world.ours()) == 2


async def test_a_step_that_is_run_again_after_it_was_recorded_changes_nothing(world: ClusterWorld) -> None:
    url = await world.deploy(world.context("sklearn"))
    before = await world.applied("run-1")

    world.step = KServePredictor()
    async with world.running(world.context("sklearn")) as running:
        assert await running.url() == url

    after = await world.applied("run-1")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert world.book.entries["app"].revision == 1


async def test_an_older_run_never_overwrites_a_newer_even_where_only_the_cluster_knows(
    world: ClusterWorld,
) -> None:
    await world.deploy(world.context("newer", run="run-2", created_at=2.0))
    before = spec(world)

    for forgets in (False, True):
        if forgets:
            world.book.entries.clear()
        async with world.running(world.context("sklearn", run="run-1", created_at=1.0)) as running:
            error = await running.failure()
        assert isinstance(error, ConflictError)
        assert "the newer run run-2 has updated it, and its model stays" in str(error)

    assert spec(world) == before


async def test_a_newer_run_takes_over_from_one_that_waits_and_which_then_undoes_nothing(
    world: ClusterWorld,
) -> None:
    async with world.running(world.context("sklearn")) as older:
        await world.applied("run-1")
        async with world.running(world.context("newer", run="run-2", created_at=2.0)) as newer:
            await world.applied("run-2")
            error = await older.failure()
            await world.serves("run-2")
            await newer.url()

    assert isinstance(error, ConflictError)
    assert "run run-2 has updated it" in str(error)
    assert served(world) == f"s3://{BUCKET}/newer"
    assert len(world.ours()) == 2
    assert remembered(world) == []


async def test_a_run_that_was_ready_when_a_newer_took_over_records_and_removes_nothing(
    world: ClusterWorld,
) -> None:
    lock = world.step._locks["app"]
    async with world.running(world.context("sklearn")) as older:
        await world.applied("run-1")
        await lock.acquire()
        async with world.running(world.context("onnx", run="run-2", created_at=2.0)) as newer:
            await world.until(lambda: lock.statistics().tasks_waiting == 1)
            await world.serves("run-1")
            await world.until(lambda: lock.statistics().tasks_waiting == 2)
            lock.release()
            await world.applied("run-2")
            error = await older.failure()
            await world.serves("run-2")
            await newer.url()

    assert isinstance(error, ConflictError)
    assert "the newer run run-2 has updated it" in str(error)
    assert world.book.entries["app"].run == "run-2"
    assert len(world.ours()) == 2
    assert len(await world.copies()) == 2
    assert remembered(world) == []
