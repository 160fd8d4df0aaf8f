"""The `mlflow-builder` step: builds the environment of the MLflow Project in its working folder.

A process of its own (`python -P -m fusemld_mlflow.builder`). It reads its inputs from `FUSEML_*` variables and the
places of environments from `FUSEMLD_ENVIRONMENTS` and `FUSEMLD_CACHE`, and writes the name of the image.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from fusemld.hooks.building import build_environment, find_environment, lock_requirements
from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model.errors import FusemldError, StartError
from fusemld_mlflow.project import ProjectEnvironment, read_environment
from fusemld_mlflow.runtimes import PROJECT_IMAGE
from fusemld_mlflow.service import pinned_version

_MLFLOW_NEEDS_PYTHON = "3.10"
_TRUE = frozenset({"true", "1", "yes", "on"})
_NAMES_SHOWN = 6


def build(environ: Mapping[str, str]) -> str:
    """The image name of the project's environment, which is complete when this returns."""
    folders = RuntimeFolders(
        environments=Path(environ["FUSEMLD_ENVIRONMENTS"]), cache=Path(environ["FUSEMLD_CACHE"])
    )
    is_verbose = environ.get("FUSEML_VERBOSE", "").lower() in _TRUE
    project = read_environment(Path(environ.get("FUSEML_CODESET_DIR") or Path.cwd()))
    for warning in project.warnings:
        _say(f"warning: {warning}")
    given = environ.get("FUSEML_PYTHON_VERSION", "").strip()
    python = given or project.python
    requirements = "".join(f"{line}\n" for line in complete(project))
    _say(f"environment from {project.source}" + (f", Python {python}" if python else ""))
    if is_verbose:
        _say(requirements.rstrip())
    try:
        locked = lock_requirements(requirements, python, folders, _say)
        spec = EnvironmentSpec(label=_label(project), requirements=locked, python=python)
        if find_environment(spec.key, folders):
            _say(f"reusing environment {spec.key}: nothing that it is built from has changed")
        else:
            build_environment(spec, folders, _say)
            _say(f"built environment {spec.key}")
    except StartError as error:
        where = "the input python_version" if given else project.source
        hint = f"\n{where} asks for Python {python}; the input python_version overrides it" if python else ""
        raise StartError(f"{error}{hint}") from error
    if is_verbose:
        _say(locked.rstrip())
    return f"{PROJECT_IMAGE}:{spec.key}"


def complete(project: ProjectEnvironment) -> tuple[str, ...]:
    """The project's requirements, with MLflow and the client of its artifact store where they are not listed."""
    names = project.names
    added: list[str] = []
    if not {"mlflow", "mlflow-skinny"} & set(names):
        added.append(f"mlflow=={pinned_version('mlflow')}; python_version >= '{_MLFLOW_NEEDS_PYTHON}'")
        added.append(f"mlflow; python_version < '{_MLFLOW_NEEDS_PYTHON}'")
    if "boto3" not in names:
        added.append("boto3")
    return (*project.requirements, *added)


def _label(project: ProjectEnvironment) -> str:
    names = tuple(dict.fromkeys(("mlflow", *project.names)))
    return ", ".join(names[:_NAMES_SHOWN]) + (" …" if len(names) > _NAMES_SHOWN else "")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the log of the step


def main() -> int:
    try:
        image = build(os.environ)
    except FusemldError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    _say(f"image: {image}")
    if output := os.environ.get("TASK_RESULT"):
        (Path(os.environ["FUSEML_RESULTS_DIR"]) / output).write_text(image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
