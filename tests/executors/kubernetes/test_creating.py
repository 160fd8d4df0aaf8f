from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import anyio
import pytest

from fusemld.executors.kubernetes import creating
from fusemld.executors.kubernetes.attempts import Attempt
from fusemld.executors.kubernetes.creating import Creator, masked_values
from fusemld.executors.kubernetes.delivery import Delivery
from fusemld.executors.kubernetes.logs import AttemptLog
from fusemld.executors.kubernetes.masks import Masks
from fusemld.executors.kubernetes.names import labels, notes, pod_name
from fusemld.hooks.clusters import REFUSED_S, Json
from fusemld.hooks.executors import Launch, MountedCodeset
from fusemld.kube.client import KubeCluster
from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    FusemldError,
    NotFoundError,
    StartError,
    UnavailableError,
)
from tests.executors.kubernetes.room import SETTINGS, launch

INSTANCE = "test-creating"
WORDS = 'pods is forbidden: User "u" cannot create resource "pods"'
REFUSED = ForbiddenError(f"cannot create /api/v1/namespaces/x/pods: {WORDS}")
NO_SIGHT = ForbiddenError("cannot get /api/v1/namespaces/x/pods/a: forbidden")
NOTHING = NotFoundError("cannot get it: not found")
AWAY = UnavailableError("cannot create it: no connection")
TAKEN = ConflictError('cannot create it: pods "a" already exists')
Answer = Json | FusemldError


class ScriptedCluster:
    """Answers the creates of a kind, and the looks at a pod, in turn; the last answer is repeated."""

    namespace = "x"
    instance = INSTANCE

    def __init__(self, **answers: Sequence[Answer]) -> None:
        self._answers: Mapping[str, list[Answer]] = {kind: list(said) for kind, said in answers.items()}

    async def create(self, path: str, body: Json) -> Json:
        return self._answer(path.rpartition("/")[2])

    async def get(self, path: str) -> Json:
        return self._answer("looks")

    def _answer(self, kind: str) -> Json:
        left = self._answers[kind]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, FusemldError):
            raise answer
        return answer


def pod_of(asked: Launch) -> Json:
    return {"metadata": {"labels": labels(asked.key, "flow", INSTANCE), "annotations": notes(asked.key, "flow")}}


class Desk:
    """Who creates what one attempt needs, at a time that the test sets."""

    def __init__(self, folder: Path, cluster: ScriptedCluster, asked: Launch) -> None:
        self.now = 0.0
        self.launch = asked
        granted = cast("KubeCluster", cluster)
        log = AttemptLog(granted, "/log", "step", folder / "a.log", folder / "a.position", limit_bytes=1000)
        self.attempt = Attempt(asked.key, pod_name(asked.key, INSTANCE), log, ())
        delivery = Delivery(granted, SETTINGS.codeset_limit_bytes)
        self.creator = Creator(granted, SETTINGS, delivery, Masks(folder / "masks"), lambda: self.now)
        self.creator.may_create_secrets.set()

    async def create(self, at: float = 0.0) -> Json | None:
        self.now = at
        return await self.creator.create(self.attempt, self.launch)

    async def find(self) -> Json | None:
        return await self.creator.find(self.attempt)


@pytest.fixture
def asked(tmp_path: Path) -> Launch:
    """It needs a ConfigMap, a Secret and a pod."""
    source = tmp_path / "code"
    source.mkdir()
    codeset = MountedCodeset(path="/project", project="team", name="mnist", version="1", digest="d", source=source)
    return launch("a", "true", codesets=(codeset,), secret_env={"TOKEN": "c"}, secrets=frozenset({"canary"}))


@pytest.mark.parametrize("kind", ["configmaps", "secrets", "pods"])
async def test_a_refusal_that_passes_costs_another_try_and_not_the_attempt(
    tmp_path: Path, asked: Launch, kind: str
) -> None:
    answers: dict[str, list[Answer]] = {"configmaps": [{}], "secrets": [{}], "pods": [{}]}
    answers[kind] = [REFUSED, REFUSED, {}]
    desk = Desk(tmp_path, ScriptedCluster(**answers), asked)
    for at in (0.0, 1.0):
        with pytest.raises(UnavailableError, match=WORDS):
            await desk.create(at)

    assert await desk.create(REFUSED_S) == {}


async def test_a_refusal_that_stays_is_believed_in_the_end(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ScriptedCluster(pods=[REFUSED]), launch("a", "true"))
    for at in (5.0, 4.0 + REFUSED_S):
        with pytest.raises(UnavailableError):
            await desk.create(at)

    with pytest.raises(StartError, match=f"the cluster refuses: {WORDS}"):
        await desk.create(5.0 + REFUSED_S)


async def test_a_refusal_after_another_answer_is_doubted_anew(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ScriptedCluster(pods=[REFUSED, AWAY, REFUSED], looks=[NOTHING]), launch("a", "true"))

    for at in (0.0, REFUSED_S, 2 * REFUSED_S, 3 * REFUSED_S - 1.0):
        with pytest.raises(UnavailableError):
            await desk.create(at)


@pytest.mark.parametrize("creates", [[TAKEN], [AWAY, REFUSED]])
async def test_while_the_pod_of_its_name_may_not_be_seen_nobody_says_that_the_attempt_cannot_start(
    tmp_path: Path, creates: list[Answer]
) -> None:
    desk = Desk(tmp_path, ScriptedCluster(pods=creates, looks=[NO_SIGHT]), launch("a", "true"))

    for at in (0.0, 1.0, 10 * REFUSED_S):
        with pytest.raises(UnavailableError):
            await desk.create(at)
    with pytest.raises(UnavailableError, match="forbidden"):
        await desk.find()


async def test_a_pod_that_may_be_seen_again_is_the_one_that_was_created(tmp_path: Path) -> None:
    asked = launch("a", "true")
    desk = Desk(tmp_path, ScriptedCluster(pods=[TAKEN], looks=[NO_SIGHT, pod_of(asked)]), asked)
    with pytest.raises(UnavailableError):
        await desk.create()

    assert await desk.create() == pod_of(asked)


async def test_an_attempt_that_waits_for_the_sweep_of_secrets_says_so(
    tmp_path: Path, asked: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creating, "_SWEPT_WITHIN_S", 0.0)
    desk = Desk(tmp_path, ScriptedCluster(configmaps=[{}], secrets=[{}], pods=[{}]), asked)
    desk.creator.may_create_secrets = anyio.Event()
    with pytest.raises(UnavailableError, match="those that an earlier daemon left are still to be removed"):
        await desk.create()
    desk.creator.may_create_secrets.set()

    assert await desk.create() == {}


def test_of_what_opens_a_codeset_only_what_is_secret_is_masked(tmp_path: Path) -> None:
    codeset = MountedCodeset(
        path="/project",
        project="p",
        name="c",
        version="v",
        digest="d",
        source=tmp_path,
        credentials={"username": "git", "password": "s3cr3t", "known_hosts": "example.org x y"},
        secrets=frozenset({"s3cr3t"}),
    )

    assert masked_values(launch("a", "true", codesets=(codeset,))) == {b"s3cr3t"}
