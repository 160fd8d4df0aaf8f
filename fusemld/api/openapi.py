"""The OpenAPI 3.1 document, generated from the route table and the types that travel."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from fusemld import __version__
from fusemld.api.access import Access
from fusemld.api.errors import MEDIA_TYPE, ErrorBody
from fusemld.api.routes import OBSOLETE, ROUTES, Route

Schema = dict[str, Any]
"""JSON, as the schema generator gives it."""

_QUERY: Mapping[str, tuple[Schema, str]] = {
    "attempt": ({"type": "integer", "minimum": 1}, "Number of the attempt; needs `step`"),
    "codeset": ({"type": "string"}, "Only runs that use this codeset (`PROJECT/NAME`)"),
    "codesetName": ({"type": "string"}, "Name of a codeset that the run uses"),
    "codesetProject": ({"type": "string"}, "Project of that codeset"),
    "follow": ({"type": "string", "enum": ["0", "1"]}, "Go on until nothing more can come"),
    "label": ({"type": "string"}, "Only what has this label"),
    "limit": ({"type": "integer", "minimum": 1, "maximum": 10_000, "default": 100}, "At most so many"),
    "name": ({"type": "string"}, "Only the workflow of this name"),
    "orphan": (
        {"type": "string", "enum": ["0", "1"]},
        "Leave what it has in a cluster or an object store, and only forget it",
    ),
    "project": ({"type": "string"}, "Only what belongs to this project"),
    "state": ({"type": "string"}, "Only runs in this state"),
    "status": ({"type": "string"}, "Only runs of this status, in any case"),
    "step": ({"type": "string"}, "Only this step"),
    "type": ({"type": "string"}, "Only applications of this type"),
    "user": ({"type": "string"}, "As if this user asked"),
    "workflow": ({"type": "string"}, "Only what belongs to this workflow"),
}


@functools.cache
def document() -> bytes:
    """The document as JSON."""
    wanted = [kind for route in ROUTES for kind in (route.answer, route.body) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        [*wanted, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    generated = iter(schemas)
    paths: dict[str, dict[str, Schema]] = {}
    for route in ROUTES:
        answer = next(generated) if route.answer is not None else None
        body = next(generated) if route.body is not None else None
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, answer, body)
    for path in OBSOLETE:
        paths[path] = {"get": _obsolete(path)}
    info = {"title": "fusemld", "version": __version__, "description": "FuseML workflows from a watched folder"}
    whole = {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}
    return msgspec.json.encode(whole)


def _operation(route: Route, answer: Schema | None, body: Schema | None) -> Schema:
    media = route.media if route.text else "application/x-ndjson" if route.changes else "application/json"
    if route.text and answer is None:
        answer = {"type": "string"}
    success: Schema = {"description": route.summary}
    if answer is not None:
        success["content"] = {media: {"schema": answer}}
    operation: Schema = {
        "operationId": operation_id(route),
        "summary": route.summary,
        "tags": ["reference" if route.reference else "fusemld"],
        "x-access": "administer" if route.access is Access.ADMINISTER else "operate",
        "parameters": [*_path_parameters(route.path), *(_query_parameter(name) for name in route.query)],
        "responses": {str(route.status): success, "default": _error("What went wrong")},
    }
    if body is not None:
        required = route.method != "GET" and route.status == 201
        operation["requestBody"] = {"required": required, "content": {"application/json": {"schema": body}}}
    return operation


def operation_id(route: Route) -> str:
    """Unique and stable, for code generators: `get_runs_run_logs`."""
    return "_".join([route.method.lower(), *re.findall(r"\w+", route.path)])


def _obsolete(path: str) -> Schema:
    return {
        "operationId": "_".join(["get", *re.findall(r"\w+", path)]),
        "summary": "Obsolete in the reference too: steps name container images",
        "tags": ["reference"],
        "deprecated": True,
        "parameters": _path_parameters(path),
        "responses": {"410": _error("Always")},
    }


def _error(description: str) -> Schema:
    return {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
    }


def _path_parameters(path: str) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameter(name: str) -> Schema:
    schema, description = _QUERY[name]
    return {"name": name, "in": "query", "description": description, "schema": schema}
