from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from fusemld.cli.commands.cleanup import cleanup
from fusemld.daemon.cleanup import Leftovers, clean_up
from fusemld.daemon.locking import state_lock
from fusemld.daemon.settings import Settings, load_settings
from fusemld.executors.kubernetes import names
from fusemld.executors.kubernetes.bundles import config_maps
from fusemld.executors.kubernetes.pod import pod, secret
from fusemld.executors.kubernetes.settings import KubernetesSettings
from fusemld.hooks.executors import Launch
from fusemld.model.application import Application
from fusemld.model.errors import InvalidInputError, StartError
from fusemld.model.run import AttemptKey
from fusemld.store.changes import PutApplication
from fusemld.store.keys import INSTANCE
from fusemld.store.sqlite import Store
from tests.cluster.api import Api
from tests.cluster.local import LocalCluster
from tests.cluster.role import grant, write_kubeconfig

STRANGER = "0123456789abcdef"
COLLECTIONS = ("pods", "secrets", "configmaps")


class Asked:
    """Somebody who is asked whether things may go."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.shown: list[Leftovers] = []

    def __call__(self, found: Leftovers) -> bool:
        self.shown.append(found)
        return self.answer


def create_database(state: Path) -> str:
    """As a daemon does; the identity of the folder."""

    async def create() -> str:
        async with Store.open(state / "fusemld.db") as store:
            instance = await store.meta(INSTANCE)
            assert instance is not None
            return instance

    return anyio.run(create)


def record(state: Path, *applications: Application) -> None:
    async def write() -> None:
        async with Store.open(state / "fusemld.db") as store:
            await store.write(*(PutApplication(application) for application in applications))

    anyio.run(write)


def recorded(state: Path) -> list[str]:
    async def read() -> list[str]:
        async with Store.open(state / "fusemld.db") as store:
            return sorted(application.name for application in await store.applications())

    return anyio.run(read)


def fill(api: Api, namespace: str, instance: str) -> None:
    """What an attempt with credentials and a codeset leaves when its daemon is killed."""
    launch = Launch(key=AttemptKey("run", "train", 1), image="x", secret_env={"TOKEN": "t"})
    root = f"/api/v1/namespaces/{namespace}"
    body = pod(launch, KubernetesSettings(), instance=instance, namespace=namespace, known={})
    api.create(f"{root}/pods", body | {"spec": body["spec"] | {"nodeSelector": {"none": "such"}}})
    credentials = secret(launch, instance=instance, namespace=namespace, known={})
    assert credentials is not None
    api.create(f"{root}/secrets", credentials)
    for config_map in config_maps(b"packed", instance, namespace):
        api.create(f"{root}/configmaps", config_map)


def owned(api: Api, namespace: str, instance: str) -> dict[str, int]:
    selector = ",".join(f"{name}%3D{text}" for name, text in names.owned(instance).items())
    return {
        kind: len(api.items(f"/api/v1/namespaces/{namespace}/{kind}?labelSelector={selector}"))
        for kind in COLLECTIONS
    }


@pytest.fixture
def settings(cluster: LocalCluster, api: Api, namespace: str, tmp_path: Path) -> Settings:
    """Of a daemon that has exactly the example's Role in a namespace of its own."""
    kubeconfig = tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, grant(api, namespace), cluster.pki / "ca.crt", namespace)
    flags = {"state": str(tmp_path), "executor": "kubernetes", "kubernetes.kubeconfig": str(kubeconfig)}
    return load_settings(flags=flags, environ={}).settings


def test_without_a_cluster_there_is_nothing_to_clean_up(tmp_path: Path) -> None:
    settings = load_settings(flags={"state": str(tmp_path)}, environ={}).settings

    with pytest.raises(InvalidInputError, match="no cluster is configured"):
        clean_up(settings, Asked(True))


def test_a_folder_that_no_daemon_has_used_is_left_as_it_is(tmp_path: Path) -> None:
    settings = load_settings(flags={"state": str(tmp_path), "executor": "kubernetes"}, environ={}).settings

    with pytest.raises(StartError, match="no daemon has used"):
        clean_up(settings, Asked(True))

    assert list(tmp_path.iterdir()) == []


def test_nothing_is_removed_under_a_daemon_that_runs(tmp_path: Path) -> None:
    settings = load_settings(flags={"state": str(tmp_path), "executor": "kubernetes"}, environ={}).settings
    create_database(tmp_path)

    with state_lock(tmp_path), pytest.raises(StartError, match="is using it"):
        clean_up(settings, Asked(True))


@pytest.mark.cluster
def test_everything_of_this_instance_goes_and_nothing_of_another(
    settings: Settings, api: Api, namespace: str
) -> None:
    instance = create_database(settings.state)
    for each in (instance, STRANGER):
        fill(api, namespace, each)
    asked = Asked(True)

    removed = clean_up(settings, asked)

    (shown,) = asked.shown
    assert (len(shown.pods), shown.secrets, shown.config_maps, shown.namespace) == (1, 1, 1, namespace)
    assert removed is not None
    assert (removed.pods, removed.secrets, removed.config_maps) == (1, 1, 1)
    assert owned(api, namespace, instance) == {"pods": 0, "secrets": 0, "configmaps": 0}
    assert owned(api, namespace, STRANGER) == {"pods": 1, "secrets": 1, "configmaps": 1}


@pytest.mark.cluster
@pytest.mark.parametrize("keep", [False, True])
def test_served_models_go_with_their_records_unless_they_are_kept(
    settings: Settings, api: Api, namespace: str, inferenceservices: str, keep: bool
) -> None:
    instance = create_database(settings.state)
    services = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices"
    for name, owner in (("ours", instance), ("theirs", STRANGER)):
        api.create(
            services,
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": {"name": name, "labels": names.owned(owner)},
                "spec": {"predictor": {"model": {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://m/x"}}},
            },
        )
    reference = f"serving.kserve.io/v1beta1/InferenceService/{namespace}/"
    record(
        settings.state,
        Application(
            name="ours", type="predictor", url="http://x", objects=(reference + "ours",), copies=("s3://m/x",)
        ),
        Application(name="local", type="predictor", url="http://y", services=("local",)),
    )

    clean_up(settings, Asked(True), keep_applications=keep)

    kept = ["ours"] if keep else []
    assert [each["metadata"]["name"] for each in api.items(services)] == [*kept, "theirs"]
    assert recorded(settings.state) == ["local", *kept]


@pytest.mark.cluster
def test_a_model_whose_first_update_was_interrupted_goes_with_its_account(
    settings: Settings, api: Api, namespace: str, inferenceservices: str
) -> None:
    instance = create_database(settings.state)
    services = f"/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices"
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    for name, owner in (("ours", instance), ("theirs", STRANGER)):
        metadata = {"name": name, "labels": names.owned(owner)}
        api.create(accounts, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        api.create(secrets, {"apiVersion": "v1", "kind": "Secret", "metadata": metadata})
        model = {"modelFormat": {"name": "sklearn"}, "storageUri": "s3://m/x"}
        api.create(
            services,
            {
                "apiVersion": "serving.kserve.io/v1beta1",
                "kind": "InferenceService",
                "metadata": metadata,
                "spec": {"predictor": {"model": model, "serviceAccountName": name}},
            },
        )
    asked = Asked(True)

    clean_up(settings, asked)

    left = {kind: {each["metadata"]["name"] for each in api.items(kind)} for kind in (services, accounts, secrets)}
    assert asked.shown[0].models == ("ours",)
    assert {kind: "ours" in found for kind, found in left.items()} == dict.fromkeys(left, False)
    assert {kind: "theirs" in found for kind, found in left.items()} == dict.fromkeys(left, True)


@pytest.mark.cluster
def test_nothing_goes_where_somebody_says_no(settings: Settings, api: Api, namespace: str) -> None:
    instance = create_database(settings.state)
    fill(api, namespace, instance)

    assert clean_up(settings, Asked(False)) is None

    assert owned(api, namespace, instance) == {"pods": 1, "secrets": 1, "configmaps": 1}


@pytest.mark.cluster
def test_an_empty_cluster_is_seen_as_that(settings: Settings) -> None:
    create_database(settings.state)
    asked = Asked(True)

    clean_up(settings, asked)

    assert asked.shown[0].is_nothing


@pytest.mark.cluster
def test_the_command_shows_what_there_is_and_removes_it_once_it_is_told_to(
    settings: Settings, api: Api, namespace: str
) -> None:
    instance = create_database(settings.state)
    fill(api, namespace, instance)
    given = {
        "FUSEMLD_STATE": str(settings.state),
        "FUSEMLD_EXECUTOR": "kubernetes",
        "FUSEMLD_KUBERNETES_KUBECONFIG": str(settings.kubernetes.kubeconfig),
    }

    def fusemld(*arguments: str, typed: str = "") -> tuple[str, int]:
        done = CliRunner(env=given).invoke(cleanup, arguments, input=typed)
        return done.output, sum(owned(api, namespace, instance).values())

    looked, after_looking = fusemld("--dry-run")
    _, after_no = fusemld(typed="n\n")
    _, after_yes = fusemld(typed="y\n")
    nothing, _ = fusemld()

    assert f"1 pods, 1 Secrets and 1 ConfigMaps in namespace {namespace}" in looked
    assert "pod run-train-1-" in looked
    assert (after_looking, after_no, after_yes) == (3, 3, 0)
    assert "nothing of this daemon" in nothing
