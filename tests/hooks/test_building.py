import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fusemld.hooks.building import (
    build_environment,
    find_environment,
    lock_requirements,
    network_environment,
    passwords,
)
from fusemld.hooks.environments import EnvironmentSpec
from fusemld.hooks.steps import RuntimeFolders
from fusemld.model.errors import StartError

SIX = EnvironmentSpec(label="six", requirements="six==1.17.0\n")


@pytest.fixture
def folders(tmp_path: Path) -> RuntimeFolders:
    return RuntimeFolders(environments=tmp_path / "environments", cache=tmp_path / "cache")


def command(spec: EnvironmentSpec, folders: RuntimeFolders, file: Path) -> list[str]:
    file.write_bytes(msgspec.json.encode(spec))
    places = ["--environments", str(folders.environments), "--cache", str(folders.cache)]
    return [sys.executable, "-m", "fusemld.hooks.building", "--spec", str(file), *places]


def test_the_key_is_that_of_the_content_and_of_the_interpreter_that_is_meant() -> None:
    own = ".".join(map(str, sys.version_info[:2]))

    assert msgspec.structs.replace(SIX, label="other").key == SIX.key
    assert msgspec.structs.replace(SIX, python=own).key == SIX.key
    assert msgspec.structs.replace(SIX, python="3.2").key != SIX.key
    assert msgspec.structs.replace(SIX, requirements="six").key != SIX.key


def test_only_what_says_how_packages_are_reached_is_passed_on() -> None:
    network = {"UV_DEFAULT_INDEX": "i", "https_proxy": "p", "SSL_CERT_FILE": "f", "UV_INDEX_OURS_PASSWORD": "w"}
    other = {"UV_PYTHON": "x", "UV_SYSTEM_PYTHON": "1", "VIRTUAL_ENV": "/v", "UV_CONSTRAINT": "c", "SECRET": "s"}

    assert network_environment({**network, **other}) == network


@pytest.mark.services
def test_an_environment_is_built_once_and_what_was_left_by_a_kill_is_replaced(folders: RuntimeFolders) -> None:
    leftover = folders.environments / SIX.key / "half-built"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    said: list[str] = []

    assert find_environment(SIX.key, folders) is None
    folder = build_environment(SIX, folders, said.append)
    first = list(said)
    again = build_environment(SIX, folders, said.append)

    assert folder == again == find_environment(SIX.key, folders)
    assert not leftover.exists()
    assert "installing: six (1 package)" in first
    assert said == first
    subprocess.run([folder / "bin" / "python", "-c", "import six"], check=True)


@pytest.mark.services
def test_an_environment_whose_interpreter_has_gone_is_built_anew(folders: RuntimeFolders) -> None:
    folder = build_environment(SIX, folders, print)
    (folder / "bin" / "python").unlink()

    assert find_environment(SIX.key, folders) is None
    build_environment(SIX, folders, print)

    assert find_environment(SIX.key, folders) == folder


@pytest.mark.services
def test_of_two_builds_at_once_one_builds_and_both_succeed(folders: RuntimeFolders, tmp_path: Path) -> None:
    argv = command(SIX, folders, tmp_path / "spec.json")

    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    logs = [process.communicate(timeout=60)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0]
    assert sum("installing: six" in log for log in logs) == 1
    assert find_environment(SIX.key, folders)


@pytest.mark.services
def test_the_installers_own_words_say_why_it_failed_and_nothing_is_left(
    folders: RuntimeFolders, tmp_path: Path
) -> None:
    spec = EnvironmentSpec(label="the impossible", requirements="six==0.0.99\n")

    with pytest.raises(StartError, match=r"(?s)environment of the impossible.*no version of six==0\.0\.99"):
        build_environment(spec, folders, print)
    process = subprocess.run(
        command(spec, folders, tmp_path / "spec.json"), capture_output=True, text=True, check=False
    )

    assert process.returncode == 1
    assert "no version of six==0.0.99" in process.stderr
    assert not (folders.environments / spec.key).exists()


@pytest.mark.services
def test_an_interpreter_that_cannot_be_had_is_named(folders: RuntimeFolders) -> None:
    with pytest.raises(StartError, match=r"cannot find Python 2\.4 on this host, nor fetch it"):
        build_environment(EnvironmentSpec(label="old", requirements="six\n", python="2.4"), folders, print)


@pytest.mark.services
def test_requirements_are_locked_once_and_options_about_indexes_are_kept(folders: RuntimeFolders) -> None:
    said: list[str] = []

    first = lock_requirements("--find-links .\npython-dateutil==2.9.0.post0\n", "", folders, said.append)
    asked = len(said)
    second = lock_requirements("--find-links .\npython-dateutil==2.9.0.post0\n", "", folders, said.append)

    assert first.startswith("--find-links .\npython-dateutil==2.9.0.post0\nsix==")
    assert second == first
    assert len(said) == asked


def test_a_folder_that_cannot_be_written_is_a_start_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folders = RuntimeFolders(environments=tmp_path / "file" / "environments", cache=tmp_path)

    with pytest.raises(StartError, match="cannot build the environment of six"):
        build_environment(SIX, folders, print)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("UV_INDEX_TEAM_PASSWORD", "s3cret", {"s3cret"}),
        ("PIP_INDEX_URL", "https://me:s3cret@packages.example/simple", {"s3cret"}),
        ("PIP_INDEX_URL", "https://packages.example/simple", set()),
        ("HTTPS_PROXY", "http://:only@proxy.example:3128", {"only"}),
        ("PATH", "/usr/bin", set()),
        ("EMPTY_PASSWORD", "", set()),
    ],
)
def test_passwords_among_variables_are_found(name: str, value: str, found: set[str]) -> None:
    assert passwords([(name, value)]) == found
