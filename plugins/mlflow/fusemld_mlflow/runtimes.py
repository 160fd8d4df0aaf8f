"""How the process executor runs the builder's image and the images that the builder names."""

from __future__ import annotations

import os
import sys
from importlib.resources import files
from pathlib import Path

from fusemld.hooks.building import find_environment, network_environment
from fusemld.hooks.steps import LocalCommand, RuntimeFolders, StepInputs
from fusemld.model.errors import StartError

BUILDER = "ghcr.io/fuseml/mlflow-builder"
PROJECT_IMAGE = "localhost/fusemld/mlflow-project"
_NO_IMAGE = "no container image is built here"


class BuilderRuntime:
    """Builds the environment of an MLflow Project; its output names an image that `TrainerRuntime` runs."""

    repositories: tuple[str, ...] = (BUILDER,)
    inputs = StepInputs(
        optional=frozenset({"python_version", "verbose"}),
        ignored={
            "registry": f"{_NO_IMAGE}, so none is pushed",
            "pull_registry": f"{_NO_IMAGE}, so none is pulled",
            "repository": _NO_IMAGE,
            "base_image": f"{_NO_IMAGE}; the input python_version chooses the interpreter",
            "miniconda_version": f"{_NO_IMAGE}; environments are built with uv",
            "intel_optimized": f"{_NO_IMAGE}; list the optimised packages in the project's requirements",
            "compressed_caching": f"{_NO_IMAGE}; packages are linked from one cache",
        },
    )

    def command(self, image: str, folders: RuntimeFolders) -> LocalCommand:  # noqa: ARG002
        return LocalCommand(
            # -P: a project's own `types.py` or `json.py` is none of the builder's modules.
            argv=(sys.executable, "-P", "-m", "fusemld_mlflow.builder"),
            env={
                **network_environment(os.environ),
                # a step has a home of its own, and interpreters of pyenv are below the daemon's
                "PYENV_ROOT": os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv"),
                "FUSEMLD_ENVIRONMENTS": str(folders.environments),
                "FUSEMLD_CACHE": str(folders.cache),
            },
            folders=folders.writable,
        )


class BuilderInContainers:
    """No trainer image is built where steps are containers: nothing there pushes one."""

    repositories: tuple[str, ...] = (BUILDER,)
    inputs = StepInputs(open=True)
    small_output = True

    def image(self, image: str) -> str:
        raise StartError(
            f"cannot run {image}: building trainer images on a cluster is not supported yet; name an image that "
            "has the project's requirements as the `image` of the step that trains, and drop the step that builds "
            "(or run the workflow with `executor: process`)"
        )


class TrainerRuntime:
    """Runs an entry point of the project in the environment that the builder built."""

    repositories: tuple[str, ...] = (PROJECT_IMAGE,)
    inputs = StepInputs(open=True)

    def command(self, image: str, folders: RuntimeFolders) -> LocalCommand:
        key = image.rpartition(":")[2]
        environment = find_environment(key, folders)
        if environment is None:
            raise StartError(
                f"cannot run {image}: its environment is not on this host any more: "
                "start a new run, which builds it again"
            )
        trainer = str(files("fusemld_mlflow") / "trainer.py")
        return LocalCommand(
            argv=(str(environment / "bin" / "python"), trainer),
            env={"VIRTUAL_ENV": str(environment), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"},
            path=(str(environment / "bin"),),
            folders=(folders.environments,),
        )
