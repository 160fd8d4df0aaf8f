"""What a wait for a service does when it cannot see the service any more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import cast

import anyio
import pytest
from fusemld_kserve import waiting
from fusemld_kserve.manifests import Place
from fusemld_kserve.waiting import Wait

from fusemld.hooks.clusters import Cluster, Json
from fusemld.model.errors import FusemldError, StartError, UnavailableError
from tests.cluster.serving import FAILED, READY, URL

PLACE = Place(
    api_version="serving.kserve.io/v1beta1",
    kind="InferenceService",
    resource="inferenceservices",
    namespace="models",
    name="iris",
)
AWAY = UnavailableError("cannot get it: the API server is away")


def service(status: Json, version: str) -> Json:
    metadata = {
        "name": "iris",
        "namespace": "models",
        "uid": "u",
        "generation": 1,
        "resourceVersion": version,
        "annotations": {"fusemld.io/run": "run-1"},
    }
    return {"metadata": metadata, "spec": {}, "status": {"observedGeneration": 1, **status}}


class BlindCluster:
    """Tells once that the model failed to load, and nothing more; whoever asks gets the next of the answers."""

    def __init__(self, *answers: Json | FusemldError) -> None:
        self.left = list(answers)

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        answer = self.left.pop(0)
        if isinstance(answer, FusemldError):
            raise answer
        return answer

    @asynccontextmanager
    async def states(self, path: str, name: str) -> AsyncGenerator[AsyncGenerator[Json | None]]:
        async def told() -> AsyncGenerator[Json | None]:
            yield service(FAILED, "1")
            await anyio.sleep_forever()

        yield told()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOAD_S", 0.02)
    monkeypatch.setattr(waiting, "SETTLE_S", 0.02)
    monkeypatch.setattr(waiting, "_AGAIN_S", 0.0)


async def url(cluster: BlindCluster) -> str:
    with anyio.fail_after(5):
        return await Wait(cast("Cluster", cluster), PLACE, "run-1", None, lambda _: None).url()


async def test_a_failure_is_asked_for_once_more_before_it_counts() -> None:
    cluster = BlindCluster(AWAY, AWAY, service(FAILED, "1"))

    with pytest.raises(StartError, match="cannot serve iris"):
        await url(cluster)

    assert cluster.left == []


async def test_a_model_that_came_to_serve_while_nobody_could_see_it_is_served() -> None:
    cluster = BlindCluster(AWAY, service({"conditions": READY, "url": URL, "deploymentMode": "ModelMesh"}, "2"))

    assert (await url(cluster)).startswith(URL)
