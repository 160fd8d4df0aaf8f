from __future__ import annotations

import pytest
from fusemld_kserve.engines import Layout, choose_engine, lay_out
from fusemld_kserve.models import ModelDescription, read_description

from fusemld.model.errors import InvalidInputError

WHERE = "s3://b/m"


def described(*flavours: str, **files: str) -> ModelDescription:
    return ModelDescription(flavours=(*flavours, "python_function"), files=files)


def laid_out(engine: str, *files: str, model: ModelDescription | None = None, version: str = "") -> Layout:
    return lay_out(engine, model, files, name="app", where=WHERE, runtime_version=version)


@pytest.mark.parametrize(
    ("flavour", "engine"),
    [("sklearn", "sklearn"), ("tensorflow", "tensorflow"), ("keras", "tensorflow"), ("onnx", "triton")],
)
def test_the_engine_follows_from_the_flavour_unless_it_is_named(flavour: str, engine: str) -> None:
    assert choose_engine("auto", described(flavour), WHERE) == engine
    assert choose_engine("triton", described(flavour), WHERE) == "triton"
    assert choose_engine("tensorflow", None, WHERE) == "tensorflow"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            described("spark"),
            r"no engine for its flavours \(spark, python_function\); served are tensorflow, keras, ",
        ),
        (None, "it has no MLmodel; set the input predictor to one of sklearn, tensorflow, triton"),
    ],
)
def test_what_no_engine_can_serve_is_a_clear_error(model: ModelDescription | None, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        choose_engine("auto", model, WHERE)


@pytest.mark.parametrize("file", ["model.pkl", "model.joblib", "model.pickle"])
def test_a_pickled_scikit_learn_model_is_served_where_it_is(file: str) -> None:
    layout = laid_out("sklearn", "MLmodel", file)

    assert layout == Layout(engine="sklearn", protocol="v2", model_name="app")
    assert layout.inference_path == "/v2/models/app/infer"


def test_a_pickle_of_another_name_gets_the_name_that_the_servers_know() -> None:
    layout = laid_out("sklearn", "MLmodel", "data/clf.pkl", model=described("sklearn", sklearn="data/clf.pkl"))

    assert layout.copies == (("data/clf.pkl", "model.pkl"),)


def test_a_scikit_learn_model_that_is_no_pickle_is_an_error_that_says_how_to_log_it() -> None:
    with pytest.raises(InvalidInputError, match=r"its file is model.skops; log it with .*'cloudpickle'"):
        laid_out("sklearn", "MLmodel", "model.skops", model=described("sklearn", sklearn="model.skops"))
    with pytest.raises(InvalidInputError, match=r"it has MLmodel, model\.xgb"):
        laid_out("sklearn", "MLmodel", "model.xgb")


def test_a_saved_model_is_laid_out_as_version_one() -> None:
    layout = laid_out(
        "tensorflow", "MLmodel", "data/model/saved_model.pb", "data/model/variables/variables.index", "data/x.txt"
    )

    assert layout.copies == (
        ("data/model/saved_model.pb", "1/saved_model.pb"),
        ("data/model/variables/variables.index", "1/variables/variables.index"),
    )
    assert (layout.protocol, layout.inference_path) == ("v1", "/v1/models/app:predict")


def test_a_saved_model_at_the_address_itself_is_laid_out_without_mlflows_files() -> None:
    layout = laid_out("tensorflow", "MLmodel", "conda.yaml", "saved_model.pb", "variables/v.index")

    assert [target for _, target in layout.copies] == ["1/saved_model.pb", "1/variables/v.index"]


def test_versions_of_a_saved_model_are_served_where_they_are() -> None:
    assert laid_out("tensorflow", "MLmodel", "1/saved_model.pb", "2/saved_model.pb").copies == ()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("MLmodel", "data/model.keras"), "loads a SavedModel, and it has MLmodel, data/model.keras"),
        (("a/saved_model.pb", "b/saved_model.pb"), r"it has several \(a/, b/\)"),
    ],
)
def test_without_exactly_one_saved_model_tensorflow_is_refused(files: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        laid_out("tensorflow", *files)


def test_the_version_of_tensorflow_serving_is_that_of_the_library_unless_it_is_given() -> None:
    def version(given: str, requirements: str) -> str:
        files = ("1/saved_model.pb",)
        layout = lay_out(
            "tensorflow", None, files, name="a", where=WHERE, runtime_version=given, requirements=requirements
        )
        return layout.runtime_version

    assert version("", "mlflow==2.9\ntensorflow==2.13.0\n") == "2.13.0"
    assert version("", "tensorflow-cpu==2.13.1 ; python_version < '3.12'") == "2.13.1"
    assert version("", "tensorflow-io==0.31.0\ntensorflow>=2.1\n") == ""
    assert version("2.6.2", "tensorflow==2.13.0") == "2.6.2"


def test_an_onnx_graph_becomes_a_repository_with_what_lies_beside_it() -> None:
    layout = laid_out(
        "triton", "MLmodel", "conda.yaml", "graph.onnx", "7d3a", model=described("onnx", onnx="graph.onnx")
    )

    assert layout.copies == (("7d3a", "app/1/7d3a"), ("graph.onnx", "app/1/model.onnx"))
    assert layout.inference_path == "/v2/models/app/infer"


def test_a_saved_model_becomes_a_repository_of_triton() -> None:
    layout = laid_out("triton", "MLmodel", "tfmodel/saved_model.pb", "tfmodel/variables/v")

    assert [target for _, target in layout.copies] == [
        "app/1/model.savedmodel/saved_model.pb",
        "app/1/model.savedmodel/variables/v",
    ]


def test_a_repository_is_served_where_it_is_under_its_own_models_name() -> None:
    one = laid_out("triton", "resnet/1/model.onnx", "resnet/config.pbtxt")
    named = laid_out("triton", "resnet/1/model.onnx", "app/1/model.savedmodel/saved_model.pb")

    assert (one.copies, one.inference_path) == ((), "/v2/models/resnet/infer")
    assert named.model_name == "app"
    with pytest.raises(InvalidInputError, match=r"several models \(a, b\), and none is called app"):
        laid_out("triton", "a/1/model.onnx", "b/1/model.plan")


def test_what_triton_cannot_load_is_a_clear_error() -> None:
    with pytest.raises(InvalidInputError, match="it loads a SavedModel or an ONNX model, and it has MLmodel"):
        laid_out("triton", "MLmodel", "model.pkl")


@pytest.mark.parametrize(
    ("version", "asks"),
    [("21.09-py3", True), ("22.06", True), ("22.07-py3", False), ("", False), ("latest", False)],
)
def test_only_releases_that_do_not_do_it_by_themselves_are_told_to_complete_configurations(
    version: str, asks: bool
) -> None:
    layout = laid_out("triton", "app/1/model.onnx", version=version)

    assert layout.args == (("--strict-model-config=false",) if asks else ())
    assert layout.runtime_version == version


def test_the_file_of_a_flavour_is_read_from_the_description() -> None:
    text = "flavors:\n  onnx: {data: model.onnx}\n  sklearn: {pickled_model: m.pkl}\n  python_function: null\n"

    assert read_description(text, "x").files == {"onnx": "model.onnx", "sklearn": "m.pkl"}
