"""Which of KServe's servers serves a model, and how it wants the files of the model laid out: pure decisions.

The names of formats and protocols, and what each server calls the model it serves, are those of the serving
runtimes that KServe ships (`config/runtimes` of kserve/kserve).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from fusemld.model.errors import InvalidInputError
from fusemld_kserve.models import DESCRIPTION, ENGINES_OF_FLAVOURS, ModelDescription

Protocol = Literal["v1", "v2"]

_PROTOCOLS: dict[str, Protocol] = {"sklearn": "v2", "tensorflow": "v1", "triton": "v2"}
_SKLEARN_FILES = ("model.joblib", "model.pkl", "model.pickle")
_PICKLED = (".joblib", ".pkl", ".pickle")
_METADATA = frozenset(
    {
        DESCRIPTION,
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "registered_model_meta",
        "input_example.json",
    }
    | {"serving_input_example.json", "serving_input_payload.json", "input_example_info.json"}
)
_VERSIONED = re.compile(r"\d+/saved_model\.pb(txt)?")
_REPOSITORY = re.compile(r"([^/]+)/\d+/model\.[^/]+")
_TENSORFLOW = re.compile(r"(?im)^tensorflow(?:-cpu|-intel)?\s*==\s*(\d+\.\d+\.\d+)\s*(?:;|#|$)")
_TRITON_RELEASE = re.compile(r"(\d\d)\.(\d\d)\b")
_COMPLETES_CONFIGURATION = (22, 7)
"""The first release of Triton that finds out inputs and outputs of a model by itself."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is served. `copies` are (file of the model, file of the layout), relative to either; without
    any the model's own address is served. `model_name` is what the server calls the model."""

    engine: str
    protocol: Protocol
    model_name: str
    runtime_version: str = ""
    args: tuple[str, ...] = ()
    copies: tuple[tuple[str, str], ...] = ()

    @property
    def inference_path(self) -> str:
        if self.protocol == "v1":
            return f"/v1/models/{self.model_name}:predict"
        return f"/v2/models/{self.model_name}/infer"


def choose_engine(predictor: str, model: ModelDescription | None, where: str) -> str:
    """Raises `InvalidInputError` where none serves such a model."""
    if predictor != "auto":
        return predictor
    if model is None:
        raise InvalidInputError(
            f"cannot choose an engine for {where}: it has no {DESCRIPTION}; set the input predictor to one of "
            f"{', '.join(_PROTOCOLS)}"
        )
    for flavour, engine in ENGINES_OF_FLAVOURS.items():
        if flavour in model.flavours:
            return engine
    raise InvalidInputError(
        f"cannot serve {where}: KServe has no engine for its flavours ({', '.join(model.flavours)}); served are "
        f"{', '.join(ENGINES_OF_FLAVOURS)}"
    )


def lay_out(
    engine: str,
    model: ModelDescription | None,
    files: Collection[str],
    *,
    name: str,
    where: str,
    runtime_version: str = "",
    requirements: str = "",
) -> Layout:
    """`files` are the names of the model's files relative to its address `where`, `name` is the service's,
    `requirements` the text that was logged with the model. Raises `InvalidInputError` where the files are not what
    the engine can load."""
    match engine:
        case "sklearn":
            copies = _sklearn(model, files, where)
        case "tensorflow":
            copies = _tensorflow(files, where)
            found = _TENSORFLOW.search(requirements)
            runtime_version = runtime_version or (found[1] if found else "")
        case "triton":
            repository = {match[1] for file in files if (match := _REPOSITORY.match(file))}
            if repository:
                name, copies = _model_of(repository, name, where), ()
            else:
                copies = _triton(model, files, name, where)
        case _:
            raise InvalidInputError(f"cannot serve {where}: there is no engine {engine!r}")
    return Layout(
        engine=engine,
        protocol=_PROTOCOLS[engine],
        model_name=name,
        runtime_version=runtime_version,
        args=_args(engine, runtime_version),
        copies=tuple(sorted(copies)),
    )


def _sklearn(model: ModelDescription | None, files: Collection[str], where: str) -> tuple[tuple[str, str], ...]:
    if any(file in files for file in _SKLEARN_FILES):
        return ()
    logged = model.files.get("sklearn", "") if model is not None else ""
    if logged in files and logged.endswith(_PICKLED):
        return ((logged, f"model{PurePosixPath(logged).suffix}"),)
    has = f"its file is {logged}" if logged else f"it has {_listed(files)}"
    raise InvalidInputError(
        f"cannot serve {where} with the predictor sklearn: KServe's scikit-learn servers load pickled models "
        f"only, and {has}; log it with mlflow.sklearn.log_model(..., serialization_format='cloudpickle')"
    )


def _tensorflow(files: Collection[str], where: str) -> tuple[tuple[str, str], ...]:
    if any(_VERSIONED.fullmatch(file) for file in files):
        return ()
    return _below(_saved_model(files, where, "tensorflow"), files, "1/")


def _triton(
    model: ModelDescription | None, files: Collection[str], name: str, where: str
) -> tuple[tuple[str, str], ...]:
    graph = _onnx(model, files)
    if graph is None:
        return _below(_saved_model(files, where, "triton"), files, f"{name}/1/model.savedmodel/")
    folder = graph.rpartition("/")[0]
    # tensors of large models lie in files of their own beside the graph, which names them
    beside = [
        file for file in files if file.rpartition("/")[0] == folder and file not in _METADATA and file != graph
    ]
    return (
        (graph, f"{name}/1/model.onnx"),
        *((file, f"{name}/1/{PurePosixPath(file).name}") for file in beside),
    )


def _onnx(model: ModelDescription | None, files: Collection[str]) -> str | None:
    logged = model.files.get("onnx", "") if model is not None else ""
    if logged in files:
        return logged
    graphs = [file for file in files if file.endswith(".onnx")]
    return graphs[0] if len(graphs) == 1 else None


def _saved_model(files: Collection[str], where: str, predictor: str) -> str:
    """The folder of the only SavedModel, with a slash at its end, or empty."""
    folders = {
        file.removesuffix(PurePosixPath(file).name)
        for file in files
        if PurePosixPath(file).name in ("saved_model.pb", "saved_model.pbtxt")
    }
    if len(folders) == 1:
        return folders.pop()
    wanted = "a SavedModel" if predictor == "tensorflow" else "a SavedModel or an ONNX model"
    has = f"it has several ({', '.join(sorted(folders))})" if folders else f"it has {_listed(files)}"
    raise InvalidInputError(f"cannot serve {where} with the predictor {predictor}: it loads {wanted}, and {has}")


def _below(folder: str, files: Collection[str], target: str) -> tuple[tuple[str, str], ...]:
    own = {file for file in files if file.startswith(folder)} - (_METADATA if not folder else frozenset())
    return tuple((file, target + file.removeprefix(folder)) for file in own)


def _model_of(repository: Collection[str], name: str, where: str) -> str:
    if name in repository:
        return name
    if len(repository) == 1:
        return next(iter(repository))
    raise InvalidInputError(
        f"cannot serve {where} with the predictor triton: it is a repository of several models "
        f"({', '.join(sorted(repository))}), and none is called {name}"
    )


def _args(engine: str, runtime_version: str) -> tuple[str, ...]:
    release = _TRITON_RELEASE.match(runtime_version) if engine == "triton" else None
    if release is None or (int(release[1]), int(release[2])) >= _COMPLETES_CONFIGURATION:
        return ()
    return ("--strict-model-config=false",)


def _listed(files: Collection[str]) -> str:
    first = sorted(files)[:5]
    return ", ".join(first) + (" …" if len(files) > len(first) else "")
