"""A real executor with its folder, in a namespace of a real cluster."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from pathlib import Path

import anyio
import msgspec

from fusemld.executors.kubernetes.executor import KubernetesExecutor
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.hooks.executors import AttemptFinished, AttemptNoted, AttemptStarted, Launch
from fusemld.kube.client import KubeCluster
from fusemld.kube.connecting import Connection, connect
from fusemld.model.run import AttemptKey
from tests.cluster.images import BASE

DEADLINE_S = 60.0
SETTINGS = KubernetesSettings(helper_image=BASE, git_image=BASE, image_pull_policy="Never")
Reported = AttemptStarted | AttemptNoted | AttemptFinished


class Room:
    """`reports` are those of one life of the executor. `cluster` is its own access, `admin` that of the test."""

    def __init__(
        self, cluster: KubeCluster, admin: KubeCluster, executor: KubernetesExecutor, state: Path
    ) -> None:
        self.cluster = cluster
        self.admin = admin
        self.executor = executor
        self.state = state
        self.known: frozenset[AttemptKey] = frozenset()
        self.reports: list[Reported] = []
        self._changed = anyio.Event()

    def report(self, reported: Reported) -> None:
        self.reports.append(reported)
        self._changed.set()
        self._changed = anyio.Event()

    async def shell(self, step: str, script: str, **more: object) -> AttemptKey:
        return await self.launch(launch(step, script, **more))

    async def launch(self, asked: Launch) -> AttemptKey:
        await self.executor.launch(asked)
        return asked.key

    async def started(self, key: AttemptKey) -> AttemptStarted:
        found = await self._wait(key, AttemptStarted)
        assert isinstance(found, AttemptStarted)
        return found

    async def ended(self, key: AttemptKey) -> AttemptFinished:
        found = await self._wait(key, AttemptFinished)
        assert isinstance(found, AttemptFinished)
        return found

    async def noted(self, key: AttemptKey, words: str) -> None:
        with anyio.fail_after(DEADLINE_S):
            while not any(
                isinstance(one, AttemptNoted) and one.key == key and words in one.text for one in self.reports
            ):
                await self._changed.wait()

    def log(self, key: AttemptKey) -> bytes:
        path = self.executor.log_path(key)
        return path.read_bytes() if path.exists() else b""

    async def names(self, kind: str) -> set[str]:
        """Of all things of a kind (`pods`) that this daemon made."""
        path = f"/api/v1/namespaces/{self.cluster.namespace}/{kind}"
        listed = await self.admin.get(path, {"labelSelector": f"fusemld.io/instance={self.cluster.instance}"})
        return {item["metadata"]["name"] for item in listed["items"]}

    async def until_gone(self, *kinds: str) -> None:
        with anyio.fail_after(DEADLINE_S):
            for kind in kinds:
                while await self.names(kind):  # noqa: ASYNC110 - nobody tells
                    await anyio.sleep(0.05)

    async def _wait(self, key: AttemptKey, kind: type[Reported]) -> Reported:
        with anyio.fail_after(DEADLINE_S):
            while True:
                for one in self.reports:
                    if one.key == key and isinstance(one, kind):
                        return one
                await self._changed.wait()


class Site:
    """Where rooms are opened one after the other: a daemon that is started again. It may do what `kubeconfig` lets
    it, and the test everything."""

    def __init__(self, kubeconfig: Path, admin: Path, namespace: str, state: Path) -> None:
        self.connection = Connection(kubeconfig=kubeconfig, namespace=namespace)
        self.admin = Connection(kubeconfig=admin, namespace=namespace)
        self.instance = f"test-{secrets.token_hex(4)}"
        self.state = state

    @contextlib.asynccontextmanager
    async def room(
        self,
        settings: KubernetesSettings = SETTINGS,
        *,
        recorded: Iterable[AttemptKey] = (),
        spared: Collection[str] = (),
        wrapped: Callable[[KubeCluster], KubeCluster] = lambda cluster: cluster,
        log_limit_bytes: int = 1024 * 1024,
    ) -> AsyncIterator[Room]:
        """Leaving it ends the daemon, and what runs goes on. `wrapped` comes between it and the cluster."""
        async with (
            connect(self.connection, instance=self.instance) as cluster,
            connect(self.admin, instance=self.instance) as admin,
        ):
            executor = KubernetesExecutor(
                wrapped(cluster), settings, state=self.state, log_limit_bytes=log_limit_bytes
            )
            opened = Room(cluster, admin, executor, self.state)
            async with anyio.create_task_group() as tasks:
                await tasks.start(executor.run, opened.report)
                opened.known = await executor.recover(list(recorded), spared)
                yield opened
                tasks.cancel_scope.cancel()


def launch(step: str, script: str, **more: object) -> Launch:
    given: Mapping[str, object] = {
        "key": AttemptKey("run", step, 1),
        "workflow": "flow",
        "image": BASE,
        "command": ("sh", "-c", script),
    }
    return msgspec.convert({**given, **more}, Launch, from_attributes=True)
