from __future__ import annotations

from pathlib import Path

import pytest

from fusemld.hooks.clusters import Cluster
from fusemld.kube.connecting import Connection, connect
from fusemld.model.errors import StartError
from fusemld.model.extension import Credentials, Extension, SecretReference, Selectors, Service
from fusemld.registry.cluster_secrets import read_secrets
from fusemld.registry.matching import Candidate, match
from tests.cluster.api import Api
from tests.cluster.role import ACCOUNT


def candidate(**configuration: str) -> Candidate:
    """A service whose credentials refer to Secrets."""
    references: dict[str, str | SecretReference] = {
        key: SecretReference(from_secret=reference) for key, reference in configuration.items()
    }
    service = Service(
        id="s3", resource="s3", credentials=(Credentials(id="c", configuration={**references, "PLAIN": "x"}),)
    )
    record = Extension(id="minio", services=(service,))
    found = match(Selectors(name="s", service_resource="s3"), [record], zone="", project="p", user="u")
    assert found.chosen is not None
    return found.chosen


async def read(cluster: Cluster, allowed: tuple[str, ...] = ("*/*",), **configuration: str) -> dict[str, str]:
    return dict(await read_secrets(candidate(**configuration), allowed, cluster))


@pytest.mark.parametrize("allowed", [(), ("models/other",), ("elsewhere/*",), ("models/key",), ("models",)])
async def test_by_default_and_outside_the_patterns_no_secret_may_be_read(allowed: tuple[str, ...]) -> None:
    with pytest.raises(StartError) as raised:
        await read_secrets(candidate(KEY="models/keys/key"), allowed, None)

    assert str(raised.value) == (
        "cannot read the credential 'KEY' of minio/s3/c: the settings do not allow records to read the Secret "
        "models/keys; an administrator can allow it with the setting secrets.secrets"
    )


@pytest.mark.parametrize("allowed", ["models/keys", "models/*", "m*/k?ys", "*/*"])
async def test_a_pattern_allows_namespace_and_name_and_then_a_cluster_is_needed(allowed: str) -> None:
    with pytest.raises(StartError, match="from the configured cluster, and none is configured"):
        await read_secrets(candidate(KEY="models/keys/key"), [allowed], None)


@pytest.mark.parametrize("reference", ["keys/key", "a/b/c/d", "a/../b", "a//c", "a/b?x=/c", "A/b/c", "a/b/"])
async def test_what_is_no_reference_to_a_secret_is_refused(reference: str) -> None:
    with pytest.raises(StartError, match="is not a reference to a Secret: write NAMESPACE/NAME/KEY"):
        await read_secrets(candidate(KEY=reference), ["*/*"], None)


async def test_without_references_nothing_is_asked_of_anybody() -> None:
    assert await read_secrets(candidate(), (), None) == {}


def allow_reading(api: Api, namespace: str, *names: str) -> None:
    """What the example's Role leaves to operators: `get` on the Secrets that their records refer to."""
    rule = {"apiGroups": [""], "resources": ["secrets"], "resourceNames": list(names), "verbs": ["get"]}
    subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
    api.create(f"{rbac}/roles", {"metadata": {"name": "reader"}, "rules": [rule]})
    binding = {"metadata": {"name": "reader"}, "subjects": [subject], "roleRef": reference}
    api.create(f"{rbac}/rolebindings", binding)


@pytest.mark.cluster
async def test_values_are_read_from_the_cluster_and_errors_name_what_is_missing_but_no_value(
    api: Api, role_kubeconfig: Path, namespace: str
) -> None:
    api.create(
        f"/api/v1/namespaces/{namespace}/secrets",
        {
            "metadata": {"name": "keys"},
            "stringData": {"id": "ann", "key.txt": "hunter2\n"},
            "data": {"raw": "/w=="},
        },
    )
    allow_reading(api, namespace, "keys", "absent")
    async with connect(Connection(kubeconfig=role_kubeconfig), instance="i") as cluster:
        values = await read(cluster, ID=f"{namespace}/keys/id", KEY=f"{namespace}/keys/key.txt")
        assert values == {f"{namespace}/keys/id": "ann", f"{namespace}/keys/key.txt": "hunter2"}
        assert cluster.requests["get secrets"] == 1

        with pytest.raises(StartError, match=f"there is no Secret {namespace}/absent in the cluster https://"):
            await read(cluster, KEY=f"{namespace}/absent/key")
        with pytest.raises(StartError, match=f"the Secret {namespace}/keys has no key 'other'"):
            await read(cluster, KEY=f"{namespace}/keys/other")
        with pytest.raises(StartError, match=f"{namespace}/keys/raw is not UTF-8 text"):
            await read(cluster, KEY=f"{namespace}/keys/raw")
