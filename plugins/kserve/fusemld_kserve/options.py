"""The inputs of the predictor step, checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import InvalidInputError
from fusemld_kserve.models import ENGINES

LONGEST_NAME = 63
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off", ""})
_RESOURCE_INPUTS = ("resources", "resources_limits")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """`warnings` name inputs without a meaning on this machine."""

    model: str
    predictor: str
    application: str
    verbose: bool = False
    warnings: tuple[str, ...] = ()


def read_options(
    inputs: Mapping[str, str], *, project: str, workflow: str, codesets: Mapping[str, PinnedCodeset]
) -> Options:
    """Raises `InvalidInputError` that names the input and what it may be."""
    model = inputs.get("model", "").strip().rstrip("/")
    if not re.match(r"s3://[^/]+/.", model):
        raise InvalidInputError(
            f"cannot use the input model {model!r}: it must be the address of a model, s3://BUCKET/PATH"
        )
    predictor = inputs.get("predictor", "").strip() or "auto"
    if predictor not in ENGINES:
        raise InvalidInputError(f"cannot use the input predictor {predictor!r}: it is one of {', '.join(ENGINES)}")
    warnings = []
    if inputs.get("runtime_version", "").strip():
        warnings.append("runtime_version has no meaning on this machine: the model's own requirements decide")
    for name in _RESOURCE_INPUTS:
        if inputs.get(name, "").strip():
            _check_resources(name, inputs[name])
            warnings.append(f"{name} has no meaning on this machine: processes are not limited")
    wanted = inputs.get("app_name", "").strip()
    application = _normalised(wanted or _default_name(inputs, project, workflow, codesets))
    if wanted and wanted != application:
        warnings.append(f"the application is called {application}: {wanted!r} cannot be a host name")
    return Options(
        model=model,
        predictor=predictor,
        application=application,
        verbose=_boolean("verbose", inputs.get("verbose", "")),
        warnings=tuple(warnings),
    )


def _default_name(
    inputs: Mapping[str, str], project: str, workflow: str, codesets: Mapping[str, PinnedCodeset]
) -> str:
    if codesets:
        codeset = next(iter(codesets.values()))
        return f"{codeset.project or project}-{codeset.name}-{workflow}"
    digest = hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).hexdigest()
    return f"{workflow}-{digest[:8]}"


def _normalised(name: str) -> str:
    """What can be part of a URL and of a host name in a cluster, so that an application is called the same in
    every executor: lower-case letters, digits and dashes, a letter first, at most 63 characters."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not text:
        raise InvalidInputError(f"cannot use the input app_name {name!r}: it has neither letters nor digits")
    if not text[0].isalpha():
        text = f"app-{text}"
    if len(text) > LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        text = f"{text[: LONGEST_NAME - 9].rstrip('-')}-{digest}"
    return text


def _check_resources(name: str, text: str) -> None:
    """A JSON object of Kubernetes quantities by resource."""
    wrong = f'cannot use the input {name}: it must be JSON such as {{"cpu": "500m", "memory": "1Gi"}}'
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{wrong} ({error})") from error
    if not isinstance(document, dict):
        raise InvalidInputError(wrong)
    for resource, quantity in document.items():
        if not _QUANTITY.fullmatch(str(quantity)) or isinstance(quantity, bool):
            raise InvalidInputError(f"{wrong}; {resource} has {quantity!r}, which is not a quantity")


def _boolean(name: str, text: str) -> bool:
    value = text.strip().lower()
    if value not in _TRUE | _FALSE:
        raise InvalidInputError(f"cannot use the input {name} {text!r}: it is true or false")
    return value in _TRUE
