"""What the reference gives its `mlflow-builder`, whether or not that has a meaning where no image is built."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.daemon import Daemon

pytestmark = pytest.mark.acceptance

REFERENCE = {
    "registry": ("registry.fuseml-registry", "no container image is built here, so none is pushed"),
    "pull_registry": ("127.0.0.1:30500", "no container image is built here, so none is pulled"),
    "repository": ("mlflow/trainer", "no container image is built here"),
    "miniconda_version": ("4.10.3", "environments are built with uv"),
    "base_image": ("python:3.6.13", "the input python_version chooses the interpreter"),
    "intel_optimized": ("true", "list the optimised packages in the project's requirements"),
    "compressed_caching": ("false", "packages are linked from one cache"),
    "verbose": ("true", ""),
}
"""Each with a value and with what a user is told: the inputs that "Using the MLflow Builder Step" lists in
docs/workflows/mlflow-builder.md of github.com/fuseml/docs (release 0.3), and `intel_optimized`, which its
images/builders/mlflow/run.sh in github.com/fuseml/extensions reads as well."""


def workflow(**inputs: str) -> str:
    given = "".join(f"      - {{name: {name}, value: {json.dumps(value)}}}\n" for name, value in inputs.items())
    return f"""\
name: builds
inputs: [{{name: code, type: codeset, default: demo/empty}}]
steps:
  - name: builder
    image: ghcr.io/fuseml/mlflow-builder:v0.3.0
    inputs:
      - {{name: mlflow-codeset, codeset: {{name: "{{{{ inputs.code }}}}", path: /project}}}}
{given}    outputs: [{{name: image}}]
"""


def test_every_input_of_the_reference_s_builder_is_taken_with_a_warning_where_it_has_no_meaning(
    daemon: Daemon,
) -> None:
    (daemon.codesets / "empty").mkdir()
    daemon.drop("empty.yaml", f"name: empty\nproject: demo\npath: {daemon.codesets / 'empty'}\n")
    daemon.start()

    file = daemon.drop("w.yaml", workflow(**{name: value for name, (value, _) in REFERENCE.items()}))
    run = daemon.finished(daemon.run_of("w.yaml"))

    assert "0 errors, 0 warnings" in daemon.run("fuseml", "lint", str(file)).stderr
    assert "there is no MLproject file" in run["steps"][0]["attempts"][-1]["tail"], (
        "it was started with all of them"
    )
    shown = [line for line in daemon.run("fuseml", "get", run["id"]).stdout.splitlines() if "warning" in line]
    expected = sorted((name, told) for name, (_, told) in REFERENCE.items() if told)
    assert len(shown) == len(expected)
    for line, (name, told) in zip(shown, expected, strict=True):
        assert line.startswith(f"warning: builder: input '{name}' is ignored: ")
        assert line.endswith(told)


def test_an_input_that_the_builder_does_not_know_is_refused_with_the_nearest(daemon: Daemon) -> None:
    daemon.start()

    daemon.drop("w.yaml", workflow(base_imag="python:3.6.13"))
    daemon.wait_for(lambda: daemon.json("files"), 10, "the file")

    (problem,) = daemon.file("w.yaml")["problems"]
    assert problem["message"] == "step 'builder' does not know the input 'base_imag': did you mean 'base_image'?"
