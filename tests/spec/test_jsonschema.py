from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fusemld.spec.jsonschema import json_schema


def _objects(schema: object) -> Iterator[dict[str, Any]]:
    match schema:
        case dict():
            yield schema
            for value in schema.values():
                yield from _objects(value)
        case list():
            for item in schema:
                yield from _objects(item)
        case _:
            pass


def test_every_reference_leads_to_a_definition() -> None:
    schema = json_schema()

    references = {entry["$ref"] for entry in _objects(schema) if isinstance(entry.get("$ref"), str)}
    assert references == {f"#/$defs/{name}" for name in schema["$defs"]}


def test_every_kind_of_document_is_described_with_all_its_fields_in_words() -> None:
    definitions = json_schema()["$defs"]

    assert {"Workflow", "Extension", "Codeset", "Assignment", "Run"} <= definitions.keys()
    for definition in definitions.values():
        assert definition["description"]
        assert definition["additionalProperties"] is False
        assert all(field["description"] for field in definition["properties"].values())


def test_the_schema_says_what_the_reader_accepts() -> None:
    step = json_schema()["$defs"]["Step"]

    assert step["required"] == ["name", "image"]
    assert json_schema()["$defs"]["StepInput"]["required"] == ["name"]
    assert json_schema()["$defs"]["Requirement"]["required"] == ["name"]
    assert step["properties"]["when"] == {"description": "Not supported yet.", "not": {}}
    assert step["properties"]["image"]["type"] == ["string", "number", "boolean"]
    assert step["properties"]["needs"]["anyOf"][0]["type"] == "array"
    assert "finally" in json_schema()["$defs"]["Workflow"]["properties"]


def test_the_schema_is_json_and_always_the_same() -> None:
    assert json.dumps(json_schema()) == json.dumps(json_schema())
