"""What an MLflow model says about itself: flavours, Python, requirements. No I/O but of a model's folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

from fusemld.hooks.environments import EnvironmentSpec
from fusemld.model.errors import InvalidInputError, StartError

DESCRIPTION = "MLmodel"
SERVER = "mlserver==1.7.1"
SUPPORTED_PYTHON = ((3, 9), (3, 12))
"""What this release of MLServer runs with, both included."""

OLDEST_MLFLOW = ">=2.16,<3"
"""Earlier releases want a protobuf that MLServer does not have; these read the models that those wrote."""

ANY_SUPPORTED_PYTHON = ">=3.9,<3.13"
ENGINES = ("auto", "sklearn", "tensorflow", "triton")

ENGINES_OF_FLAVOURS = {"tensorflow": "tensorflow", "keras": "tensorflow", "onnx": "triton", "sklearn": "sklearn"}
_CLUSTER_ENGINES = {"tensorflow": "TensorFlow Serving", "triton": "the Triton inference server"}
_PYTHON_FUNCTION = "python_function"
_MODEL_FILES = {"sklearn": "pickled_model", "onnx": "data"}
_MLFLOW = re.compile(r"(?im)^\s*mlflow(-skinny)?\s*(\[|[<>=!~;@]|$)")
_OLD_MLFLOW = re.compile(r"(?im)^(\s*mlflow(?:-skinny)?)\s*==\s*(?:1\.|2\.(?:[0-9]|1[0-5])(?=[.\s;]|$)).*$")
_NAME = re.compile(r"(?m)^\s*(scikit-learn|mlflow)\s*==\s*([^\s;]+)")


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """`flavours` in the order of the file; `python` is empty where the model does not say. `files` maps a
    flavour to the file that holds its model, relative to the model, where it is a single one."""

    flavours: tuple[str, ...]
    python: str = ""
    files: dict[str, str] = {}


def read_description(text: str, where: str) -> ModelDescription:
    """Parse an `MLmodel`. Raises `InvalidInputError`."""
    try:
        document: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise InvalidInputError(f"cannot read {where}: {error}") from error
    flavours = document.get("flavors") if isinstance(document, dict) else None
    if not isinstance(flavours, dict) or not flavours:
        raise InvalidInputError(f"cannot read {where}: it names no flavors, so it is not an MLflow model")
    function = flavours.get(_PYTHON_FUNCTION)
    python = str(function.get("python_version") or "") if isinstance(function, dict) else ""
    files = {
        name: str(flavours[name][key])
        for name, key in _MODEL_FILES.items()
        if isinstance(flavours.get(name), dict) and flavours[name].get(key)
    }
    return ModelDescription(flavours=tuple(str(name) for name in flavours), python=python, files=files)


def check_servable(model: ModelDescription, predictor: str, where: str) -> str:
    """The flavour that is going to be served on this machine.

    Raises `InvalidInputError` where the predictor does not fit the model, `StartError` where only another
    executor could serve it.
    """
    flavour = next((name for name in model.flavours if name != _PYTHON_FUNCTION), _PYTHON_FUNCTION)
    known = next((name for name in ENGINES_OF_FLAVOURS if name in model.flavours), None)
    engine = predictor if predictor != "auto" else ENGINES_OF_FLAVOURS.get(known or "", "")
    if server := _CLUSTER_ENGINES.get(engine):
        cause = f"the predictor {engine}" if predictor != "auto" else f"its flavour {known}"
        raise StartError(
            f"cannot serve {where} on this machine: {cause} needs {server}, which KServe runs on a cluster; "
            "the kubernetes executor could serve it (`executor: kubernetes`)"
        )
    if engine == "sklearn" and "sklearn" not in model.flavours:
        raise InvalidInputError(
            f"cannot serve {where} with the predictor sklearn: its flavours are {', '.join(model.flavours)}"
        )
    if _PYTHON_FUNCTION not in model.flavours:
        raise StartError(
            f"cannot serve {where} on this machine: it lacks the flavour {_PYTHON_FUNCTION} (it has "
            f"{', '.join(model.flavours)}); log it with MLflow's own log_model"
        )
    return flavour


def serving_environment(model: Path) -> EnvironmentSpec:
    """What was logged with the model in that folder, and the inference server.

    Raises `StartError` where the model does not say what it needs.
    """
    requirements = _OLD_MLFLOW.sub(rf"\1{OLDEST_MLFLOW}", _requirements(model))
    if not _MLFLOW.search(requirements):
        requirements += "mlflow\n"
    names = [f"{name} {version}" for name, version in sorted(set(_NAME.findall(requirements)), reverse=True)]
    logged, python = _pythons(model)
    if logged and logged != python:
        names.append(f"Python {python} for a model of {logged}")
    return EnvironmentSpec(
        label=f"the inference server ({', '.join(names) or 'as logged with the model'})",
        requirements=f"{requirements}{SERVER}\n",
        python=python,
    )


def _requirements(model: Path) -> str:
    file = model / "requirements.txt"
    if file.is_file():
        return file.read_text(encoding="utf-8").strip() + "\n"
    for entry in _yaml(model / "conda.yaml").get("dependencies") or ():
        if isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            return "".join(f"{line}\n" for line in entry["pip"])
    raise StartError(
        f"cannot serve the model in {model}: neither requirements.txt nor conda.yaml beside its {DESCRIPTION} "
        "says what it needs; log it with MLflow's own log_model"
    )


def _pythons(model: Path) -> tuple[str, str]:
    """The minor version that the model was logged with (empty: it does not say), and the nearest to it that the
    server can have: what is pinned beside the model was made for a version that is not far."""
    described = read_description((model / DESCRIPTION).read_text(encoding="utf-8"), DESCRIPTION).python
    version = str(_yaml(model / "python_env.yaml").get("python") or described)
    match = re.match(r"(\d+)\.(\d+)", version)
    if match is None:
        return "", ANY_SUPPORTED_PYTHON
    logged = int(match[1]), int(match[2])
    first, last = SUPPORTED_PYTHON
    major, minor = min(max(logged, first), last)
    return match[0], f"{major}.{minor}"


def _yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise StartError(f"cannot read {file.name} of the model: {error}") from error
    return document if isinstance(document, dict) else {}
