from __future__ import annotations

import pytest

from fusemld.executors.kubernetes.permissions import PERMISSIONS
from tests.cluster.role import documents


def test_the_role_grants_exactly_what_is_needed() -> None:
    granted = {
        (verb, resource, group)
        for rule in documents()["Role"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    assert granted == {(each.verb, each.resource, each.group) for each in PERMISSIONS}


def test_the_role_is_bound_to_the_service_account_in_its_own_namespace() -> None:
    found = documents()
    binding = found["RoleBinding"]

    assert binding["roleRef"]["kind"] == "Role"
    assert binding["roleRef"]["name"] == found["Role"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": found["ServiceAccount"]["metadata"]["name"]}]
    assert set(found) == {"Role", "RoleBinding", "ServiceAccount"}


@pytest.mark.parametrize("verb", ["get", "list", "watch"])
def test_nobody_s_secrets_can_be_read(verb: str) -> None:
    assert not [each for each in PERMISSIONS if each.resource == "secrets" and each.verb == verb]
