from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fusemld.api.client import Client
from fusemld.api.openapi import document
from fusemld.api.routes import ROUTES


def whole() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(document())
    return found


def operations(api: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_the_document_is_openapi_3_1_with_every_route_of_the_table() -> None:
    api = whole()

    assert api["openapi"] == "3.1.0"
    assert {(route.path, route.method.lower()) for route in ROUTES} <= {
        (path, method) for path, method, _ in operations(api)
    }


def test_every_reference_in_the_document_leads_somewhere() -> None:
    api = whole()
    found = set(references(api))

    assert found
    assert {reference.removeprefix("#/components/schemas/") for reference in found} <= set(
        api["components"]["schemas"]
    )


def test_every_operation_has_an_id_of_its_own_and_an_answer() -> None:
    api = whole()
    ids = [operation["operationId"] for _, _, operation in operations(api)]

    assert len(ids) == len(set(ids))
    assert all(operation["responses"] for _, _, operation in operations(api))


def test_path_parameters_are_declared_exactly_as_the_path_names_them() -> None:
    for path, _, operation in operations(whole()):
        declared = [each["name"] for each in operation["parameters"] if each["in"] == "path"]

        assert declared == re.findall(r"{(\w+)}", path)


def test_the_daemon_serves_the_document_itself(client: Client) -> None:
    served = client.get("/api/openapi.json", dict[str, object])

    assert served == whole()


def test_times_are_declared_as_such_and_credentials_are_hidden_text() -> None:
    schemas = whole()["components"]["schemas"]

    assert schemas["RunView"]["properties"]["created_at"] == {"type": "string", "format": "date-time"}
    assert schemas["CredentialsView"]["properties"]["configuration"]["additionalProperties"] == {"type": "string"}
