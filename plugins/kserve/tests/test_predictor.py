"""The predictor step with real models, environments, servers and predictions."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from anyio import to_thread
from fusemld_kserve.predictor import KServePredictor

from fusemld.model.errors import ConflictError, InvalidInputError, NotFoundError, StartError
from fusemld.model.service import ServiceCondition

Open = Callable[[], AbstractAsyncContextManager[Any]]

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]

ROWS = [[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]
COLUMNS = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")
TENSOR = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP64", "data": [*ROWS[0], *ROWS[1]]}]}
NAME = "default-iris-mlflow-e2e"


def post(url: str, body: object) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def predict(url: str, body: object = TENSOR) -> list[object]:
    status, answer = await to_thread.run_sync(post, url, body)
    assert status == 200, answer
    data: list[object] = answer["outputs"][0]["data"]
    return data


@pytest.mark.parametrize("model", ["columns", "array"])
async def test_a_trained_model_answers_plain_tensors_and_columns(open_world: Open, model: str) -> None:
    columns = [
        {"name": name, "shape": [2], "datatype": "FP64", "data": [row[index] for row in ROWS]}
        for index, name in enumerate(COLUMNS)
    ]
    integers = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "INT64", "data": [5, 3, 1, 0]}]}
    nested = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": ROWS}]}
    narrow = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1, 2, 3, 4]}]}
    async with open_world() as world:
        context = world.context(model)
        outputs = await KServePredictor().run(context)
        url = outputs["prediction-url"]

        assert urlsplit(url).path == f"/v2/models/{NAME}/infer"
        assert await predict(url) == [0, 2]
        assert await predict(url, nested) == [0, 2]
        assert await predict(url, {"inputs": columns}) == [0, 2]
        assert await predict(url, integers) == [0]
        status, answer = await to_thread.run_sync(post, url, narrow)
        assert status == 400
        assert "2" in answer["error"]
        assert "4" in answer["error"]
        application = world.book.entries[NAME]
        assert application.url == url
        assert application.services == (f"predictor-{NAME}",)
        assert (application.run, application.revision, application.workflow) == ("run-1", 1, "mlflow-e2e")
        assert any("environment" in note or "installing" in note for note in context.notes)


async def test_a_pickled_model_that_predicts_texts_is_served(open_world: Open) -> None:
    async with open_world() as world:
        outputs = await KServePredictor().run(world.context("pickled", inputs={"app_name": "Named Iris"}))

        assert "/v2/models/named-iris/infer" in outputs["prediction-url"]
        assert await predict(outputs["prediction-url"]) == ["setosa", "virginica"]


async def test_a_second_training_takes_over_under_the_same_url_without_a_refused_request(
    open_world: Open,
) -> None:
    step = KServePredictor()
    async with open_world() as world:
        url = (await step.run(world.context("columns")))["prediction-url"]

        with Hammer(url) as hammer:
            for number, model in enumerate(("constant", "columns"), start=2):
                context = world.context(model, run=f"run-{number}", created_at=float(number))
                assert (await step.run(context))["prediction-url"] == url
            await hammer.hears([0, 2])

        assert hammer.errors == []
        assert {tuple(answer) for answer in hammer.answers} == {(0, 2), (1, 1)}
        assert world.book.entries[NAME].revision == 3
        assert world.book.entries[NAME].run == "run-3"


async def test_a_failed_update_leaves_the_old_model_answering(open_world: Open) -> None:
    step = KServePredictor()
    async with open_world() as world:
        url = (await step.run(world.context("columns")))["prediction-url"]
        before = world.book.entries[NAME], world.supervisor.states()[0].pid

        with Hammer(url) as hammer, pytest.raises(StartError, match=f"cannot start service predictor-{NAME}"):
            await step.run(world.context("broken", run="run-2", created_at=2.0))

        assert hammer.errors == []
        assert await predict(url) == [0, 2]
        assert (world.book.entries[NAME], world.supervisor.states()[0].pid) == before


async def test_a_first_model_that_cannot_be_loaded_leaves_no_service(open_world: Open) -> None:
    async with open_world() as world:
        with pytest.raises(StartError, match=f"cannot start service predictor-{NAME}"):
            await KServePredictor().run(world.context("broken"))

        assert world.supervisor.states() == ()
        assert world.book.entries == {}


async def test_an_older_run_never_overwrites_a_newer(open_world: Open) -> None:
    step = KServePredictor()
    async with open_world() as world:
        url = (await step.run(world.context("columns", run="run-2", created_at=2.0)))["prediction-url"]

        with pytest.raises(ConflictError, match="the newer run run-2 has updated it"):
            await step.run(world.context("constant", run="run-1", created_at=1.0))

        assert await predict(url) == [0, 2]


async def test_a_step_that_is_run_again_after_the_daemon_died_changes_nothing(open_world: Open) -> None:
    async with open_world() as world:
        outputs = await KServePredictor().run(world.context("columns"))
        before = world.supervisor.states()[0].pid

    async with open_world() as world:
        assert await KServePredictor().run(world.context("columns")) == outputs

        (state,) = world.supervisor.states()
        assert (state.pid, state.state) == (before, ServiceCondition.READY)
        assert world.book.entries[NAME].revision == 1
        assert await predict(outputs["prediction-url"]) == [0, 2]


async def test_a_step_that_is_cancelled_while_the_server_starts_can_be_repeated(open_world: Open) -> None:
    step = KServePredictor()
    async with open_world() as world:
        context = world.context("columns")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step.run, context)
            with anyio.fail_after(300):
                await context.hears("starting ")
            tasks.cancel_scope.cancel()

        outputs = await step.run(world.context("columns"))

        assert await predict(outputs["prediction-url"]) == [0, 2]


async def test_a_first_model_whose_step_is_killed_while_its_server_starts_leaves_no_service(
    open_world: Open,
) -> None:
    async with open_world() as world:
        context = world.context("columns")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(KServePredictor().run, context)
            with anyio.fail_after(300):
                await context.hears("starting ")
            context.is_killed = True
            tasks.cancel_scope.cancel()

        assert world.supervisor.states() == ()


async def test_what_cannot_be_served_here_is_refused_before_anything_is_started(open_world: Open) -> None:
    step = KServePredictor()
    async with open_world() as world:
        with pytest.raises(StartError, match=r"flavour tensorflow needs .* kubernetes executor could serve it"):
            await step.run(world.context("keras"))
        with pytest.raises(StartError, match=r"predictor triton needs .* kubernetes executor could serve it"):
            await step.run(world.context("columns", inputs={"predictor": "triton"}))
        with pytest.raises(NotFoundError, match="there is no such model"):
            await step.run(world.context("nothing"))
        with pytest.raises(InvalidInputError, match="one of auto, sklearn"):
            await step.run(world.context("columns", inputs={"predictor": "magic"}))

        assert world.supervisor.states() == ()


class Hammer:
    """Clients in threads while the context is open: some connect anew each time, one keeps its connection."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._stop = threading.Event()
        targets = (self._reconnect, self._reconnect, self._keep)
        self._threads = [threading.Thread(target=target) for target in targets]
        self.answers: list[list[int]] = []
        self.errors: list[str] = []

    def __enter__(self) -> Hammer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    async def hears(self, answer: list[int]) -> None:
        deadline = time.monotonic() + 30
        while self.answers[-3:] != [answer] * 3:
            assert time.monotonic() < deadline, f"the last answers are {self.answers[-3:]}"
            await anyio.sleep(0.05)

    def _connection(self) -> http.client.HTTPConnection:
        assert self._url.hostname is not None
        return http.client.HTTPConnection(self._url.hostname, self._url.port, timeout=30)

    def _reconnect(self) -> None:
        while not self._stop.wait(0.01):
            connection = self._connection()
            self._ask(connection)
            connection.close()

    def _keep(self) -> None:
        connection = self._connection()
        while not self._stop.wait(0.05):
            self._ask(connection)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.request("POST", self._url.path, json.dumps(TENSOR), {"content-type": "application/json"})
            with connection.getresponse() as answer:
                self.answers.append(json.load(answer)["outputs"][0]["data"])
        except (OSError, http.client.HTTPException, KeyError) as error:
            self.errors.append(repr(error))
            connection.close()
