"""What an MLflow Project needs to run: its MLproject and environment files read into one list of requirements."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from fusemld.model.errors import InvalidInputError

ENVIRONMENT_FILES = ("conda.yaml", "python_env.yaml", "requirements.txt")
_LIMIT_BYTES = 1024 * 1024
_NESTING = 8
_INCLUDE = re.compile(r"(?:-r|--requirement)[ =]?\s*(\S+)$")
_INDEX_OPTION = re.compile(r"(-i|--index-url|--extra-index-url|-f|--find-links|--no-index)\b")
_CONDA = re.compile(r"(?:[\w.-]+::)?([\w.-]+)\s*(?:\[[^\]]*\])?\s*(.*)$")
_CONDA_NAMES = {
    "pytorch": "torch",
    "py-xgboost": "xgboost",
    "py-opencv": "opencv-python-headless",
    "opencv": "opencv-python-headless",
    "matplotlib-base": "matplotlib",
    "pytables": "tables",
    "msgpack-python": "msgpack",
    "python-graphviz": "graphviz",
}
_NOT_PYTHON = re.compile(
    r"(_|lib|ld_impl)|(cudatoolkit|cudnn|gcc|gxx|openssl|ca-certificates|blas|mkl|nomkl)($|_)"
)


class ProjectEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """`source` is the file it was read from; `python` is empty where nothing is pinned; `requirements` are lines
    of a requirements file without includes; `warnings` say what was left out."""

    source: str
    python: str = ""
    requirements: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The packages asked for, in order, each once."""
        return tuple(dict.fromkeys(name for line in self.requirements if (name := requirement_name(line))))


def requirement_name(line: str) -> str:
    """The normalised name of the package, empty where the line is an option or a bare URL."""
    try:
        return canonicalize_name(Requirement(line).name)
    except InvalidRequirement:
        return ""


def read_environment(folder: Path) -> ProjectEnvironment:
    """The environment that the project in the folder asks for; raises `InvalidInputError` naming the file."""
    project = read_mlproject(folder)
    for kind in ("conda_env", "python_env"):
        if named := project.get(kind):
            if not (folder / str(named)).is_file():
                raise InvalidInputError(f"MLproject: {kind} names the file {named!r}, which does not exist")
            return _read(folder, str(named), is_conda=kind == "conda_env")
    if "docker_env" in project:
        raise InvalidInputError(
            "MLproject: docker_env is an environment in a container image: name a conda_env or python_env instead"
        )
    for name in ENVIRONMENT_FILES:
        if (folder / name).is_file():
            return _read(folder, name, is_conda=name == "conda.yaml")
    raise InvalidInputError(
        f"the project says nothing about its environment: there is none of {', '.join(ENVIRONMENT_FILES)}"
    )


def read_mlproject(folder: Path) -> dict[str, Any]:
    """The content of MLproject (in any case, as MLflow takes it)."""
    found = sorted(path.name for path in folder.iterdir() if path.name.lower() == "mlproject")
    if not found:
        raise InvalidInputError("there is no MLproject file in the codeset's root folder")
    return _mapping(folder, found[0])


def _read(folder: Path, name: str, *, is_conda: bool) -> ProjectEnvironment:
    if name.endswith(".txt"):
        lines, warnings = _flattened(folder, (f"-r {name}",), name)
        return ProjectEnvironment(source=name, requirements=lines, warnings=warnings)
    content = _mapping(folder, name)
    if is_conda:
        return _conda(folder, name, content)
    # As it is written: 3.10 is a number to YAML, and that number is 3.1.
    is_given = content.get("python") is not None
    python = str(_mapping(folder, name, yaml.BaseLoader)["python"]) if is_given else ""
    given = [*_strings(name, content, "build_dependencies"), *_strings(name, content, "dependencies")]
    lines, warnings = _flattened(folder, given, name)
    return ProjectEnvironment(source=name, python=python, requirements=lines, warnings=warnings)


def _conda(folder: Path, name: str, content: dict[str, Any]) -> ProjectEnvironment:
    python = ""
    lines: list[str] = []
    warnings: list[str] = []
    listed = content.get("dependencies") or ()
    if not isinstance(listed, list | tuple):
        raise InvalidInputError(f"{name}: dependencies is not a list")
    for entry in listed:
        if isinstance(entry, dict):
            given, left_out = _flattened(folder, _strings(name, entry, "pip"), name)
            lines += given
            warnings += left_out
            continue
        match = _CONDA.match(str(entry).strip())
        if match is None:
            raise InvalidInputError(f"{name}: {entry!r} is not a conda package")
        package, version = match[1].lower(), _conda_version(match[2])
        if package == "python":
            python = version.removeprefix("==").removesuffix(".*")
        elif _NOT_PYTHON.match(package):
            warnings.append(f"{name}: {package} is left out: it is no Python package, the host must have it")
        elif package != "pip":
            lines.append(_CONDA_NAMES.get(package, package) + version)
    return ProjectEnvironment(source=name, python=python, requirements=tuple(lines), warnings=tuple(warnings))


def _conda_version(text: str) -> str:
    """Conda's `=1.2` (any 1.2.x), `==1.2.3`, `=1.2.3=build`, `>=1,<2` and `1.2.*` as pip writes them."""
    text = text.replace(" ", "")
    if not text:
        return ""
    if text[0] in "<>!~" or text.startswith("=="):
        return text.split("=py")[0] if text.startswith("==") else text
    version = text.removeprefix("=").partition("=")[0]
    exact = version.endswith("*") or not re.fullmatch(r"\d+(\.\d+)*", version)
    return f"=={version}" if exact else f"=={version}.*"


def _flattened(folder: Path, given: Sequence[str], source: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    lines: list[str] = []
    warnings: list[str] = []
    for origin, line in _lines(folder, given, source, _NESTING):
        if _INDEX_OPTION.match(line) or "://" in line:
            lines.append(line)
        elif line.startswith(("-e", "--editable", ".", "/")):
            raise InvalidInputError(
                f"{origin}: {line!r}: the codeset itself cannot be installed; its files are in the working "
                "folder of the training, where they can be imported"
            )
        elif line.startswith(("-c", "--constraint")):
            raise InvalidInputError(f"{origin}: {line!r}: write the constraints as requirements")
        elif line.startswith("-"):
            warnings.append(f"{origin}: the option {line!r} is left out")
        else:
            try:
                lines.append(str(Requirement(line)))
            except InvalidRequirement as error:
                raise InvalidInputError(f"{origin}: {line!r} is not a requirement: {error}") from error
    return tuple(lines), tuple(warnings)


def _lines(folder: Path, given: Sequence[str], origin: str, nesting: int) -> Iterator[tuple[str, str]]:
    """Every requirement with the name of its file: comments, hashes and white space dropped, includes followed."""
    for raw in given:
        line = re.sub(r"(^|\s)#.*$", "", raw)
        line = re.sub(r"\s--hash[= ]\S+", "", line).strip()
        if not line:
            continue
        include = _INCLUDE.match(line)
        if include is None:
            yield origin, line
        elif nesting == 0:
            raise InvalidInputError(f"{origin}: requirements include each other too deeply")
        else:
            text = _text(folder, include[1]).replace("\\\n", " ")
            yield from _lines(folder, text.splitlines(), include[1], nesting - 1)


def _strings(name: str, content: dict[str, Any], key: str) -> list[str]:
    value = content.get(key) or []
    if not isinstance(value, list) or any(not isinstance(item, str) for item in value):
        raise InvalidInputError(f"{name}: {key} is not a list of packages")
    return value


def _mapping(
    folder: Path, name: str, loader: type[yaml.BaseLoader | yaml.SafeLoader] = yaml.SafeLoader
) -> dict[str, Any]:
    try:
        content = yaml.load(_text(folder, name), loader)  # noqa: S506 - both loaders make nothing but plain values
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{name} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"{name} is not a mapping of keys to values")
    return content


def _text(folder: Path, name: str) -> str:
    """A file of the project; what lies outside of it is none of the builder's business."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise InvalidInputError(f"{name} is outside of the project")
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise InvalidInputError(f"{name} is larger than {_LIMIT_BYTES} bytes")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {name}: {error}") from error
