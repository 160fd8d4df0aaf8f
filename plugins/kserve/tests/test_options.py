from __future__ import annotations

import re

import pytest
from fusemld_kserve.options import LONGEST_NAME, Options, Resources, read_options
from hypothesis import given
from hypothesis import strategies as st

from fusemld.model.codeset import PinnedCodeset
from fusemld.model.errors import InvalidInputError

MODEL = "s3://mlflow/1/models/m-1/artifacts"
CODESET = PinnedCodeset(project="team", name="iris_model", version="1", url="", digest="1")


def read(**inputs: str) -> Options:
    codesets = {"mlflow-codeset": CODESET}
    return read_options({"model": MODEL, **inputs}, project="default", workflow="mlflow-e2e", codesets=codesets)


def read_without_codeset(**inputs: str) -> Options:
    return read_options({"model": MODEL, **inputs}, project="default", workflow="mlflow-e2e", codesets={})


def test_without_inputs_the_defaults_hold() -> None:
    assert read() == Options(model=MODEL, predictor="auto", application="team-iris-model-mlflow-e2e")


def test_without_a_codeset_the_name_is_the_workflow_and_a_hash_of_the_inputs() -> None:
    first, same = read_without_codeset(), read_without_codeset()
    other = read_without_codeset(predictor="sklearn")

    assert re.fullmatch(r"mlflow-e2e-[0-9a-f]{8}", first.application)
    assert first.application == same.application != other.application


@pytest.mark.parametrize(
    ("given_", "name"),
    [
        ("cifar10-kserve", "cifar10-kserve"),
        ("Iris_App.v2", "iris-app-v2"),
        ("10-digits", "app-10-digits"),
    ],
)
def test_a_name_becomes_what_a_host_can_be_called(given_: str, name: str) -> None:
    options = read(app_name=given_)

    assert options.application == name
    assert bool(options.warnings) == (given_ != name)


@given(st.text(min_size=1).filter(lambda text: re.search("[A-Za-z0-9]", text)))
def test_every_name_with_a_letter_or_digit_is_made_valid_and_stays(name: str) -> None:
    chosen = read(app_name=name).application

    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", chosen)
    assert len(chosen) <= LONGEST_NAME
    assert read(app_name=chosen).application == chosen


def test_long_names_that_differ_at_their_end_stay_different() -> None:
    assert read(app_name="a" * 80 + "1").application != read(app_name="a" * 80 + "2").application


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"model": ""}, "the input model ''.*s3://BUCKET/PATH"),
        ({"model": "/tmp/model"}, "must be the address of a model"),
        ({"model": "s3://bucket"}, "must be the address of a model"),
        ({"predictor": "magic"}, "one of auto, sklearn, tensorflow, triton"),
        ({"resources": "lots"}, "the input resources: it must be YAML"),
        ({"resources": "[1]"}, "the input resources: it must be YAML"),
        ({"resources_limits": '{"cpu": "a lot"}'}, "cpu has 'a lot', which is not a quantity"),
        ({"resources_limits": '{"cpu": true}'}, "cpu has True, which is not a quantity"),
        ({"resources": "{requests: 1}"}, "the input resources: it must be YAML"),
        ({"resources_limits": "{"}, "the input resources_limits: it must be YAML"),
        ({"runtime_version": "1.0:evil"}, "the input runtime_version '1.0:evil': it is not the tag"),
        ({"verbose": "perhaps"}, "the input verbose 'perhaps': it is true or false"),
        ({"app_name": "---"}, "has neither letters nor digits"),
    ],
)
def test_a_wrong_input_is_an_error_that_names_it(inputs: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        read(**inputs)


def test_inputs_that_only_a_cluster_heeds_are_accepted_with_a_warning_for_this_machine() -> None:
    options = read(runtime_version="1.0", resources_limits="{cpu: 1}")

    assert options.warnings == ()
    assert [warning.partition(" ")[0] for warning in options.meaningless_here] == ["runtime_version", "resources"]
    assert read().meaningless_here == ()


@pytest.mark.parametrize(
    ("inputs", "requests", "limits"),
    [
        ({"resources_limits": "{nvidia.com/gpu: 1}"}, {}, {"nvidia.com/gpu": "1"}),
        (
            {"resources_limits": '{"cpu": 2, "memory": "4Gi"}'},
            {"cpu": "2", "memory": "4Gi"},
            {"cpu": "2", "memory": "4Gi"},
        ),
        ({"resources": "{cpu: 100m, memory: 4Gi}"}, {"cpu": "100m", "memory": "4Gi"}, {"memory": "4Gi"}),
        ({"resources": '{"requests": {"cpu": 1}}'}, {"cpu": "1"}, {}),
        (
            {"resources": "{requests: {cpu: 1}, limits: {cpu: 2}}", "resources_limits": "{cpu: 3}"},
            {"cpu": "1"},
            {"cpu": "3"},
        ),
        ({"resources": "", "resources_limits": ""}, {}, {}),
    ],
)
def test_resources_are_read_as_the_reference_writes_them(
    inputs: dict[str, str], requests: dict[str, str], limits: dict[str, str]
) -> None:
    assert read(**inputs).resources == Resources(requests=requests, limits=limits)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("False", False), ("", False)])
def test_verbose_is_a_boolean_as_users_write_it(text: str, value: bool) -> None:
    assert read(verbose=text).verbose is value
