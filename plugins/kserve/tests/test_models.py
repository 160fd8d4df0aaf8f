from __future__ import annotations

from pathlib import Path

import pytest
from fusemld_kserve.models import ModelDescription, check_servable, read_description, serving_environment

from fusemld.model.errors import FusemldError, InvalidInputError, StartError

SKLEARN = "flavors:\n  python_function: {python_version: 3.11.7}\n  sklearn: {sklearn_version: 1.7.2}\n"


def model_folder(folder: Path, **files: str) -> Path:
    names = {"mlmodel": "MLmodel", "requirements": "requirements.txt"}
    for name, text in files.items():
        (folder / names.get(name, f"{name}.yaml")).write_text(text)
    return folder


def test_a_model_names_its_flavours_and_its_python() -> None:
    assert read_description(SKLEARN, "x") == ModelDescription(
        flavours=("python_function", "sklearn"), python="3.11.7"
    )


@pytest.mark.parametrize("text", ["", "flavors: {}", "flavors: [a]", "{", "a: &a [*a]", "- 1"])
def test_what_is_no_model_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InvalidInputError, match="cannot read s3://b/m/MLmodel"):
        read_description(text, "s3://b/m/MLmodel")


@pytest.mark.parametrize(
    ("flavours", "predictor", "served"),
    [
        (("python_function", "sklearn"), "auto", "sklearn"),
        (("python_function", "sklearn"), "sklearn", "sklearn"),
        (("python_function", "xgboost"), "auto", "xgboost"),
        (("python_function",), "auto", "python_function"),
    ],
)
def test_a_model_with_a_python_function_is_served_here(
    flavours: tuple[str, ...], predictor: str, served: str
) -> None:
    assert check_servable(ModelDescription(flavours=flavours), predictor, "m") == served


@pytest.mark.parametrize(
    ("flavours", "predictor", "error", "words"),
    [
        (("keras", "python_function"), "auto", StartError, "its flavour keras needs TensorFlow Serving"),
        (("python_function", "tensorflow"), "auto", StartError, "its flavour tensorflow needs TensorFlow Serving"),
        (("onnx", "python_function"), "auto", StartError, "its flavour onnx needs the Triton inference server"),
        (("python_function", "sklearn"), "tensorflow", StartError, "the kubernetes executor could serve it"),
        (("python_function", "sklearn"), "triton", StartError, "the predictor triton needs"),
        (("python_function", "xgboost"), "sklearn", InvalidInputError, "flavours are python_function, xgboost"),
        (("spark",), "auto", StartError, "lacks the flavour python_function"),
    ],
)
def test_what_cannot_be_served_here_is_an_error_that_says_why(
    flavours: tuple[str, ...], predictor: str, error: type[FusemldError], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_servable(ModelDescription(flavours=flavours), predictor, "s3://b/m")


def test_the_environment_is_what_was_logged_and_the_server(tmp_path: Path) -> None:
    model = model_folder(
        tmp_path, mlmodel=SKLEARN, requirements="mlflow==3.17.2\nscikit-learn==1.7.2\nskops==0.16"
    )

    spec = serving_environment(model)

    assert spec.requirements == "mlflow==3.17.2\nscikit-learn==1.7.2\nskops==0.16\nmlserver==1.7.1\n"
    assert spec.python == "3.11"
    assert spec.label == "the inference server (scikit-learn 1.7.2, mlflow 3.17.2)"


def test_a_model_that_forgot_mlflow_gets_it(tmp_path: Path) -> None:
    model = model_folder(tmp_path, mlmodel=SKLEARN, requirements="scikit-learn\n")

    assert serving_environment(model).requirements == "scikit-learn\nmlflow\nmlserver==1.7.1\n"


@pytest.mark.parametrize(
    ("logged", "installed"),
    [
        ("mlflow==1.30.0", "mlflow>=2.16,<3"),
        ("mlflow==2.9", "mlflow>=2.16,<3"),
        ("mlflow-skinny==2.15.1", "mlflow-skinny>=2.16,<3"),
        ("mlflow==2.16.2", "mlflow==2.16.2"),
        ("mlflow==2.22.0", "mlflow==2.22.0"),
        ("mlflow==3.1.4", "mlflow==3.1.4"),
        ("mlflow<3,>=2.1", "mlflow<3,>=2.1"),
    ],
)
def test_an_mlflow_that_the_server_cannot_live_with_is_replaced_by_one_that_reads_its_models(
    tmp_path: Path, logged: str, installed: str
) -> None:
    model = model_folder(tmp_path, mlmodel=SKLEARN, requirements=f"{logged}\nscikit-learn==1.3.2\n")

    assert serving_environment(model).requirements == f"{installed}\nscikit-learn==1.3.2\nmlserver==1.7.1\n"


def test_an_old_model_has_its_requirements_in_conda_yaml(tmp_path: Path) -> None:
    conda = "dependencies:\n- python=3.9\n- pip:\n  - mlflow\n  - scikit-learn==1.4\n"
    model = model_folder(tmp_path, mlmodel=SKLEARN, conda=conda)

    assert serving_environment(model).requirements == "mlflow\nscikit-learn==1.4\nmlserver==1.7.1\n"


def test_a_model_that_does_not_say_what_it_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="says what it needs"):
        serving_environment(model_folder(tmp_path, mlmodel=SKLEARN))


@pytest.mark.parametrize(
    ("logged", "chosen"),
    [
        ("3.10.4", "3.10"), ("3.12.1", "3.12"), ("3.13.0", "3.12"), ("4.0.1", "3.12"),
        ("3.7.1", "3.9"), ("2.7.18", "3.9"), ("unknown", ">=3.9,<3.13"),
    ],
)  # fmt: skip
def test_the_server_has_the_python_of_the_model_or_the_nearest_that_it_can_have(
    tmp_path: Path, logged: str, chosen: str
) -> None:
    model = model_folder(tmp_path, mlmodel=SKLEARN, requirements="mlflow\n", python_env=f"python: {logged}\n")

    assert serving_environment(model).python == chosen


def test_another_python_than_the_model_s_is_named(tmp_path: Path) -> None:
    model = model_folder(tmp_path, mlmodel=SKLEARN, requirements="mlflow\n", python_env="python: 3.14.2\n")

    assert serving_environment(model).label == "the inference server (Python 3.12 for a model of 3.14)"
