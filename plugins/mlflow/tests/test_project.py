from pathlib import Path

import pytest
from fusemld_mlflow.builder import complete
from fusemld_mlflow.project import ProjectEnvironment, read_environment
from fusemld_mlflow.service import pinned_version

from fusemld.model.errors import InvalidInputError

CONDA = """
name: example
channels: [conda-forge]
dependencies:
  - {entry}
"""


def project(folder: Path, **files: str) -> Path:
    for name, text in {"MLproject": "name: example\n", **files}.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("entry", "requirement"),
    [
        ("numpy", "numpy"),
        ("numpy=1.26", "numpy==1.26.*"),
        ("numpy=1.26.*", "numpy==1.26.*"),
        ("numpy==1.26.4", "numpy==1.26.4"),
        ("numpy=1.26.4=py311h64a7726_0", "numpy==1.26.4.*"),
        ("numpy==1.26.4=py311h64a7726_0", "numpy==1.26.4"),
        ("numpy=2.0.0rc1", "numpy==2.0.0rc1"),
        ('"numpy >=1.20, <2"', "numpy>=1.20,<2"),
        ("conda-forge::numpy=1.26", "numpy==1.26.*"),
        ("pytorch=2.1", "torch==2.1.*"),
    ],
)
def test_a_conda_package_becomes_the_requirement_that_pip_knows(
    tmp_path: Path, entry: str, requirement: str
) -> None:
    folder = project(tmp_path, conda__yaml=CONDA.format(entry=entry))

    environment = read_environment(folder)

    assert environment.requirements == (requirement,)


@pytest.mark.parametrize(
    ("entry", "python"),
    [("python=3.11", "3.11"), ("python==3.10.4", "3.10.4"), ("python=3.9.*", "3.9"), ("python>=3.8", ">=3.8")],
)
def test_conda_pins_the_interpreter(tmp_path: Path, entry: str, python: str) -> None:
    folder = project(tmp_path, conda__yaml=CONDA.format(entry=entry))

    environment = read_environment(folder)

    assert environment.python == python
    assert environment.requirements == ()


def test_conda_packages_and_its_pip_list_are_one_list_with_includes_followed(tmp_path: Path) -> None:
    conda = CONDA.format(entry="scikit-learn=1.6") + "  - pip\n  - pip:\n    - mlflow\n    - -r more.txt\n"
    folder = project(tmp_path, conda__yaml=conda, more__txt="boto3>=1 # the store\n\npandas --hash=sha256:00\n")

    environment = read_environment(folder)

    assert environment.requirements == ("scikit-learn==1.6.*", "mlflow", "boto3>=1", "pandas")
    assert environment.names == ("scikit-learn", "mlflow", "boto3", "pandas")


def test_conda_packages_that_are_not_python_are_left_out_with_a_warning(tmp_path: Path) -> None:
    folder = project(tmp_path, conda__yaml=CONDA.format(entry="cudatoolkit=11.8"))

    environment = read_environment(folder)

    assert environment.requirements == ()
    assert "cudatoolkit is left out" in environment.warnings[0]


def test_python_env_gives_its_interpreter_and_both_lists(tmp_path: Path) -> None:
    text = 'python: "3.11"\nbuild_dependencies: [setuptools]\ndependencies: ["-r requirements.txt", six==1.17.0]\n'
    folder = project(tmp_path, python_env__yaml=text, requirements__txt="numpy\n")

    environment = read_environment(folder)

    assert environment == ProjectEnvironment(
        source="python_env.yaml", python="3.11", requirements=("setuptools", "numpy", "six==1.17.0")
    )


@pytest.mark.parametrize(("text", "python"), [("3.10", "3.10"), ("'>=3.9'", ">=3.9"), ("null", ""), ("", "")])
def test_a_version_of_python_is_taken_as_it_is_written(tmp_path: Path, text: str, python: str) -> None:
    folder = project(tmp_path, python_env__yaml=f"python: {text}\ndependencies: [six]\n")

    assert read_environment(folder).python == python


@pytest.mark.parametrize("named", ["conda_env: env/conda.yml", "python_env: env/python.yml"])
def test_the_file_that_mlproject_names_is_taken_first(tmp_path: Path, named: str) -> None:
    folder = project(tmp_path, MLproject=f"{named}\n", requirements__txt="wrong\n")
    (folder / "env").mkdir()
    (folder / "env" / "conda.yml").write_text(CONDA.format(entry="right"))
    (folder / "env" / "python.yml").write_text("dependencies: [right]\n")

    environment = read_environment(folder)

    assert environment.requirements == ("right",)


def test_files_are_looked_for_in_the_order_conda_python_env_requirements(tmp_path: Path) -> None:
    sources = []
    folder = project(tmp_path, requirements__txt="a\n")
    sources.append(read_environment(folder).source)
    (folder / "python_env.yaml").write_text("dependencies: [b]\n")
    sources.append(read_environment(folder).source)
    (folder / "conda.yaml").write_text(CONDA.format(entry="c"))
    sources.append(read_environment(folder).source)

    assert sources == ["requirements.txt", "python_env.yaml", "conda.yaml"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is none of conda.yaml, python_env.yaml, requirements.txt"),
        ({"MLproject": "conda_env: gone.yaml\n"}, "gone.yaml"),
        ({"MLproject": "docker_env: {image: x}\n"}, "docker_env"),
        ({"MLproject": "entry_points: [\n"}, "MLproject is not YAML"),
        ({"requirements__txt": "-e .\n"}, "the codeset itself cannot be installed"),
        ({"requirements__txt": "-r ../outside.txt\n"}, "outside of the project"),
        ({"requirements__txt": "-r requirements.txt\n"}, "include each other"),
        ({"requirements__txt": "numpy = 1\n"}, "'numpy = 1' is not a requirement"),
        ({"conda__yaml": "dependencies:\n  - pip: numpy\n"}, "pip is not a list"),
        ({"conda__yaml": "dependencies: 5\n"}, "conda.yaml: dependencies is not a list"),
        ({"conda__yaml": "- just a list\n"}, "conda.yaml is not a mapping"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_place(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    folder = project(tmp_path, **files)

    with pytest.raises(InvalidInputError, match=message):
        read_environment(folder)


def test_a_codeset_without_mlproject_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no MLproject"):
        read_environment(tmp_path)


def test_mlflow_and_boto3_are_added_where_they_are_not_listed() -> None:
    bare = complete(ProjectEnvironment(source="x", requirements=("numpy",)))
    listed = complete(ProjectEnvironment(source="x", requirements=("MLflow<3", "boto3")))

    assert f"mlflow=={pinned_version('mlflow')}; python_version >= '3.10'" in bare
    assert "boto3" in bare
    assert listed == ("MLflow<3", "boto3")
