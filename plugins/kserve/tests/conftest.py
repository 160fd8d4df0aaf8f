"""Where models are served on this machine and on a cluster.

On this machine models, keeper and supervisor are real and the object store is a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
import msgspec
import pytest
from fusemld_kserve import waiting
from fusemld_kserve.inference import InferenceServer
from fusemld_s3.service import RcloneKind

from fusemld.executors.process.client import Keeper
from fusemld.hooks import clusters
from fusemld.hooks.building import build_environment
from fusemld.hooks.environments import Environments, EnvironmentSpec
from fusemld.hooks.services import ServiceAddress, Services
from fusemld.hooks.steps import RuntimeFolders
from fusemld.hooks.stores import ObjectStore, StoreConnection, StoredObject
from fusemld.kube.connecting import Connection, connect
from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import NotFoundError
from fusemld.model.extension import ResolvedService, ServiceAccess
from fusemld.model.run import AttemptKey
from fusemld.model.service import ServiceRecord
from fusemld.services.environments import KeeperEnvironments
from fusemld.services.supervisor import ServiceSupervisor
from tests.cluster.api import Api
from tests.cluster.serving import BUCKET, KEYS, ONNX, SKLEARN, Book, ClusterWorld

TRAINER = EnvironmentSpec(
    label="the trainer", requirements="mlflow==3.17.2\nscikit-learn==1.7.2\nskops==0.16.0\npandas\n"
)
CODESET = PinnedCodeset(project="default", name="iris", version="1", url="", digest="1")


class FolderStore:
    """An object store whose buckets are the folders of a folder."""

    connection = StoreConnection(endpoint=None, region="none")

    def __init__(self, root: Path) -> None:
        self._root = root

    async def list(self, url: str) -> tuple[StoredObject, ...]:
        return tuple(
            StoredObject(
                key=str(file.relative_to(self._root)),
                size=file.stat().st_size,
                etag=hashlib.md5(file.read_bytes()).hexdigest(),
            )
            for file in sorted(self._path(url).rglob("*"))
            if file.is_file()
        )

    async def read(self, url: str, limit_bytes: int) -> bytes:
        try:
            return self._path(url).read_bytes()[:limit_bytes]
        except FileNotFoundError:
            raise NotFoundError(f"cannot read {url}: there is no such object") from None

    async def download(self, url: str, folder: Path) -> None:
        shutil.copytree(self._path(url), folder, dirs_exist_ok=True)

    async def copy(self, source: str, target: str) -> None:
        self._path(target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._path(source), self._path(target))

    async def delete(self, url: str) -> None:
        shutil.rmtree(self._path(url), ignore_errors=True)

    async def ensure_bucket(self, bucket: str) -> None:
        (self._root / bucket).mkdir(parents=True, exist_ok=True)

    def _path(self, url: str) -> Path:
        return self._root / url.removeprefix("s3://")


class Records:
    def __init__(self) -> None:
        self.saved: dict[str, ServiceRecord] = {}

    async def load(self) -> Sequence[ServiceRecord]:
        return tuple(self.saved.values())

    async def save(self, record: ServiceRecord) -> None:
        self.saved[record.name] = record

    async def delete(self, name: str) -> None:
        self.saved.pop(name, None)


def access(name: str, resource: str, url: str) -> ServiceAccess:
    resolved = ResolvedService(
        requirement=name, extension_id=name, service_id=name, url=url, service_resource=resource
    )
    return ServiceAccess(service=resolved)


class Context:
    """A step of run `run` that serves the model `model` of the bucket `models`."""

    def __init__(
        self,
        *,
        services: Services,
        environments: Environments,
        folders: RuntimeFolders,
        store: ObjectStore,
        book: Book,
        model: str,
        run: str = "run-1",
        created_at: float = 1.0,
        inputs: Mapping[str, str] | None = None,
        kserve: str = "local://process",
    ) -> None:
        self.key = AttemptKey(run, "predictor", 1)
        self.workflow = "mlflow-e2e"
        self.project = "default"
        self.executor = "process"
        self.run_created_at = created_at
        self.inputs: Mapping[str, str] = {"model": f"s3://models/{model}", **(inputs or {})}
        self.codesets: Mapping[str, PinnedCodeset] = {"mlflow-codeset": CODESET}
        self.extensions: Mapping[str, ServiceAccess] = {
            "s3-storage": access("s3-storage", "s3", "http://127.0.0.1:1"),
            "kserve": access("kserve", "kserve-api", kserve),
        }
        self.outputs: tuple[str, ...] = ("prediction-url",)
        self.is_killed = False
        self.services = services
        self.environments = environments
        self.applications = book
        self.folders = folders
        self.work = folders.environments.parent / "work"
        self.notes: list[str] = []
        self._noted = anyio.Event()
        self._store = store

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._noted.set()

    def log(self, text: str) -> None:
        self.note(text)

    async def hears(self, beginning: str) -> None:
        """Returns when a note begins like that."""
        while not any(note.startswith(beginning) for note in self.notes):
            self._noted = anyio.Event()
            await self._noted.wait()

    def object_store(self, access: ServiceAccess) -> ObjectStore:
        assert access.service.service_resource == "s3"
        return self._store


class World(msgspec.Struct, kw_only=True):
    """One life of the daemon, and what steps in it share."""

    supervisor: ServiceSupervisor
    environments: Environments
    folders: RuntimeFolders
    store: ObjectStore
    book: Book

    def context(
        self,
        model: str,
        run: str = "run-1",
        created_at: float = 1.0,
        inputs: Mapping[str, str] | None = None,
        kserve: str = "local://process",
    ) -> Context:
        return Context(
            services=self.supervisor,
            environments=self.environments,
            folders=self.folders,
            store=self.store,
            book=self.book,
            model=model,
            run=run,
            created_at=created_at,
            inputs=inputs,
            kserve=kserve,
        )


OpenWorld = Callable[[], AbstractAsyncContextManager[World]]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second is long enough for what may pass by itself."""
    monkeypatch.setattr(waiting, "SETTLE_S", 0.5)
    monkeypatch.setattr(waiting, "LOAD_S", 0.5)
    monkeypatch.setattr(clusters, "REFUSED_S", 0.5)


@pytest.fixture(scope="session")
def bucket(runtime_folders: RuntimeFolders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained models, one that cannot be loaded and one for TensorFlow."""
    environment = build_environment(TRAINER, runtime_folders, lambda _: None)
    models = tmp_path_factory.mktemp("store") / "models"
    models.mkdir()
    script = Path(__file__).parent / "train.py"
    command = [environment / "bin" / "python", script, models]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(models), "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run(command, check=True, env=env, capture_output=True)
    shutil.copytree(models / "columns", models / "broken")
    (models / "broken" / "model.skops").write_bytes(b"not a model")
    (models / "keras").mkdir()
    (models / "keras" / "MLmodel").write_text("flavors:\n  tensorflow: {}\n  python_function: {}\n")
    return models


@pytest.fixture
def open_world(tmp_path: Path, runtime_folders: RuntimeFolders, bucket: Path) -> OpenWorld:
    records, book = Records(), Book()
    state = tmp_path / "state"

    @contextlib.asynccontextmanager
    async def open_() -> AsyncIterator[World]:
        keeper = Keeper(state, idle_s=1.0)
        environments = KeeperEnvironments(keeper, runtime_folders, state / "logs" / "environments")
        server = InferenceServer()
        supervisor = ServiceSupervisor(keeper, environments, {server.kind: server}, state, records)
        async with anyio.create_task_group() as tasks:
            await tasks.start(lambda *, task_status: keeper.run(task_status=task_status))
            await tasks.start(lambda *, task_status: supervisor.run(task_status=task_status))
            try:
                yield World(
                    supervisor=supervisor,
                    environments=environments,
                    folders=runtime_folders,
                    store=FolderStore(bucket.parent),
                    book=book,
                )
            finally:
                tasks.cancel_scope.cancel()

    return open_


@pytest.fixture(autouse=True)
async def _nothing_left(tmp_path: Path) -> AsyncIterator[None]:
    yield
    await Keeper(tmp_path / "state").shutdown(grace_s=1.0)


@pytest.fixture(scope="session")
def object_store(start_service: Callable[..., ServiceAddress]) -> ServiceAddress:
    """Its bucket holds models that nobody loads here."""
    address = start_service(RcloneKind(), KEYS)
    models = {
        "sklearn": {"MLmodel": SKLEARN, "model.pkl": "pickle", "requirements.txt": "scikit-learn==1.7.2\n"},
        "newer": {"MLmodel": SKLEARN, "model.pkl": "newer pickle"},
        "onnx": {"MLmodel": ONNX, "model.onnx": "graph", "tensors": "weights", "conda.yaml": "name: x\n"},
        "skops": {"MLmodel": "flavors:\n  sklearn: {pickled_model: model.skops}\n", "model.skops": "zip"},
        "spark": {"MLmodel": "flavors:\n  spark: {}\n", "data": "x"},
    }
    for model, files in models.items():
        for file, text in files.items():
            target = address.folder / "data" / BUCKET / model / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    return address


@pytest.fixture
async def world(
    api: Api, role_kubeconfig: Path, namespace: str, object_store: ServiceAddress, tmp_path: Path
) -> AsyncIterator[ClusterWorld]:
    """The daemon's part acts with the rights of the example's Role."""
    connection = Connection(kubeconfig=role_kubeconfig, namespace=namespace)
    async with connect(connection, instance=f"i-{secrets.token_hex(4)}") as connected:
        yield ClusterWorld(api, connected, object_store, tmp_path)
