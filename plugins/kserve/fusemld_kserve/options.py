"""The inputs of the predictor step, checked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import InvalidInputError
from fusemld_kserve.models import ENGINES

LONGEST_NAME = 63
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off", ""})


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """Kubernetes quantities by resource."""

    requests: dict[str, str] = {}
    limits: dict[str, str] = {}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    predictor: str
    application: str
    runtime_version: str = ""
    resources: Resources = Resources()
    verbose: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def meaningless_here(self) -> tuple[str, ...]:
        """Warnings about inputs that only a cluster heeds."""
        return tuple(
            text
            for text, is_given in (
                (
                    "runtime_version has no meaning on this machine: the model's own requirements decide",
                    self.runtime_version,
                ),
                (
                    "resources and resources_limits have no meaning on this machine: processes are not limited",
                    self.resources != Resources(),
                ),
            )
            if is_given
        )


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
    wanted = inputs.get("app_name", "").strip()
    application = _normalised(wanted or _default_name(inputs, project, workflow, codesets))
    if wanted and wanted != application:
        warnings.append(f"the application is called {application}: {wanted!r} cannot be a host name")
    return Options(
        model=model,
        predictor=predictor,
        application=application,
        runtime_version=_runtime_version(inputs.get("runtime_version", "").strip()),
        resources=_resources(inputs),
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


def _runtime_version(text: str) -> str:
    """The tag of the server's image."""
    if text and not _TAG.fullmatch(text):
        raise InvalidInputError(f"cannot use the input runtime_version {text!r}: it is not the tag of an image")
    return text


def _resources(inputs: Mapping[str, str]) -> Resources:
    """`resources` are requests, or a mapping with `requests` and `limits`; `resources_limits` are limits and win.

    Where only a limit or only a request for memory is given, it is both: the other would otherwise come from the
    serving runtime, and a request above its limit is refused.
    """
    given = _mapping("resources", inputs.get("resources", ""))
    if set(given) <= {"requests", "limits"}:
        requests = _quantities("resources", given.get("requests") or {})
        limits = _quantities("resources", given.get("limits") or {})
    else:
        requests, limits = _quantities("resources", given), {}
    text = inputs.get("resources_limits", "")
    limits |= _quantities("resources_limits", _mapping("resources_limits", text))
    for name in ("cpu", "memory"):
        if name in limits:
            requests.setdefault(name, limits[name])
    if "memory" in requests:
        limits.setdefault("memory", requests["memory"])
    return Resources(requests=requests, limits=limits)


def _mapping(name: str, text: str) -> dict[Any, Any]:
    """YAML, of which JSON is a part: `{nvidia.com/gpu: 1}`."""
    try:
        document: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInputError(f"{_wrong(name)} ({error})") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise InvalidInputError(_wrong(name))
    return document


def _quantities(name: str, document: Any) -> dict[str, str]:
    if not isinstance(document, dict):
        raise InvalidInputError(_wrong(name))
    for resource, quantity in document.items():
        if isinstance(quantity, bool) or not _QUANTITY.fullmatch(str(quantity)):
            raise InvalidInputError(f"{_wrong(name)}; {resource} has {quantity!r}, which is not a quantity")
    return {str(resource): str(quantity) for resource, quantity in document.items()}


def _wrong(name: str) -> str:
    return f"cannot use the input {name}: it must be YAML such as {{cpu: 500m, memory: 1Gi, nvidia.com/gpu: 1}}"


def _boolean(name: str, text: str) -> bool:
    value = text.strip().lower()
    if value not in _TRUE | _FALSE:
        raise InvalidInputError(f"cannot use the input {name} {text!r}: it is true or false")
    return value in _TRUE
