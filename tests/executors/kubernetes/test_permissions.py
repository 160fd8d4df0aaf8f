from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from fusemld.executors.kubernetes.permissions import PERMISSIONS

MANIFESTS = list(yaml.safe_load_all((Path(__file__).parents[3] / "examples/kubernetes/role.yaml").read_text()))


def only(kind: str) -> dict[str, Any]:
    (found,) = [each for each in MANIFESTS if each["kind"] == kind]
    return dict(found)


def test_the_role_grants_exactly_what_is_needed() -> None:
    granted = {
        (verb, resource, group)
        for rule in only("Role")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }

    assert granted == {(each.verb, each.resource, each.group) for each in PERMISSIONS}


def test_the_role_is_bound_to_the_service_account_in_its_own_namespace() -> None:
    binding = only("RoleBinding")

    assert binding["roleRef"]["kind"] == "Role"
    assert binding["roleRef"]["name"] == only("Role")["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": only("ServiceAccount")["metadata"]["name"]}]
    assert {each["kind"] for each in MANIFESTS} == {"Role", "RoleBinding", "ServiceAccount"}


@pytest.mark.parametrize("verb", ["get", "list", "watch"])
def test_nobody_s_secrets_can_be_read(verb: str) -> None:
    assert not [each for each in PERMISSIONS if each.resource == "secrets" and each.verb == verb]
