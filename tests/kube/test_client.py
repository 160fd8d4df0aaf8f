from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.hooks.clusters import Json
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from tests.kube.faults import (
    FaultyServer,
    connected,
    says,
)

PODS = "/api/v1/namespaces/x/pods"


def config_map(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.mark.cluster
async def test_objects_are_created_read_changed_and_deleted(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        made = await cluster.create(path, config_map("one", a="1"))
        applied = await cluster.apply(f"{path}/one", config_map("one", b="2"))
        patched = await cluster.patch(f"{path}/one", {"data": {"a": None}})
        found = await cluster.get(path, {"fieldSelector": "metadata.name=one"})
        is_deleted = await cluster.delete(f"{path}/one", uid=made["metadata"]["uid"])
        is_deleted_again = await cluster.delete(f"{path}/one")

    assert applied["data"] == {"a": "1", "b": "2"}
    assert patched["data"] == {"b": "2"}
    assert [entry["metadata"]["name"] for entry in found["items"]] == ["one"]
    assert (is_deleted, is_deleted_again) == (True, False)
    assert cluster.requests == {
        "create configmaps": 1,
        "patch configmaps": 2,
        "list configmaps": 1,
        "delete configmaps": 2,
    }


@pytest.mark.cluster
async def test_another_object_of_the_name_is_not_deleted(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        await cluster.create(path, config_map("one"))

        is_deleted = await cluster.delete(f"{path}/one", uid="of-another-one")

        assert not is_deleted
        assert (await cluster.get(f"{path}/one"))["metadata"]["name"] == "one"


@pytest.mark.cluster
async def test_what_a_label_chooses_is_deleted_or_only_counted(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        for name, label in (("a", "yes"), ("b", "yes"), ("c", "no")):
            await cluster.create(path, {"metadata": {"name": name, "labels": {"mine": label}}})

        counted = await cluster.delete_collection(path, "mine=yes", dry_run=True)
        deleted = await cluster.delete_collection(path, "mine=yes")
        left = await cluster.delete_collection(path, "mine", dry_run=True)

    assert (counted, deleted, left) == (2, 2, 1)


@pytest.mark.cluster
async def test_refusals_of_the_real_server_are_quoted(kubeconfig: Path, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    async with connect(Connection(kubeconfig=kubeconfig), instance="test") as cluster:
        with pytest.raises(NotFoundError, match=r'cannot get .*/absent: configmaps "absent" not found'):
            await cluster.get(f"{path}/absent")
        await cluster.create(path, config_map("one"))
        with pytest.raises(ConflictError, match='configmaps "one" already exists'):
            await cluster.create(path, config_map("one"))
        with pytest.raises(InvalidInputError, match=r"metadata\.name: Invalid value"):
            await cluster.create(path, config_map("Not A Name"))
        with pytest.raises(NotFoundError, match="404 page not found"):
            await cluster.get("/apis/absent.example/v1/things")


@pytest.mark.cluster
async def test_wrong_credentials_are_forbidden(kubeconfig: Path, tmp_path: Path) -> None:
    text = kubeconfig.read_text()
    start = text.index("users:")
    wrong = text[:start] + 'users: [{name: admin, user: {token: "wr0ng"}}]\n' + text[text.index("contexts:") :]
    (tmp_path / "config").write_text(wrong)
    async with connect(Connection(kubeconfig=tmp_path / "config"), instance="test") as cluster:
        with pytest.raises(ForbiddenError, match="Unauthorized") as raised:
            await cluster.get("/api/v1/namespaces/default/pods")

    assert "wr0ng" not in str(raised.value)


async def test_an_answer_that_is_no_json_is_unavailable() -> None:
    async with connected(FaultyServer([says("<html>welcome</html>")])) as cluster:
        with pytest.raises(UnavailableError, match=f"cannot understand the answer for {PODS}"):
            await cluster.get(PODS)
