from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from fusemld.cli.commands.cleanup import cleanup
from fusemld.daemon.cleanup import Leftovers
from fusemld.daemon.settings import Settings
from fusemld.store.sqlite import Store
from tests.api.memory import MemoryOperations
from tests.cli.clusters import TOKEN, api_server, write_kubeconfig
from tests.cli.conftest import BIN


def fusemld(environment: dict[str, str], *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "fusemld"), *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, check=False, stdin=subprocess.DEVNULL
    )


def test_config_names_every_value_with_its_origin(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('executor = "process"\n')

    done = fusemld(
        environment, "config", "--config", str(file), "--state", "/s", "--set", "limits.steps=3", "-o", "json"
    )
    found = json.loads(done.stdout)

    assert found["state"] == {"value": "/s", "origin": "flag --state"}
    assert found["limits.steps"] == {"value": "3", "origin": "flag --set limits.steps="}
    assert found["executor"]["origin"] == str(file)
    assert found["socket"]["origin"] == "FUSEMLD_SOCKET"
    assert found["group"]["origin"] == "default"


def test_a_setting_that_does_not_exist_is_exit_status_2(environment: dict[str, str]) -> None:
    done = fusemld(environment, "config", "--set", "limit.steps=3")

    assert done.returncode == 2
    assert "did you mean 'limits.steps'?" in done.stderr


@pytest.mark.parametrize("command", ["run", "stop", "check", "config", "cleanup", "restore x"])
def test_a_variable_with_a_typing_error_is_exit_status_2_of_every_command_that_reads_settings(
    environment: dict[str, str], operations: MemoryOperations, command: str
) -> None:
    done = fusemld(environment | {"FUSEMLD_EXECUTER": "kubernetes"}, *command.split())

    assert done.returncode == 2
    assert done.stderr == (
        "fusemld: cannot read settings: no setting has the variable 'FUSEMLD_EXECUTER'; "
        "did you mean 'FUSEMLD_EXECUTOR'?\n"
    )
    assert operations.asked == []


def test_stop_asks_the_daemon_for_what_was_wanted(
    environment: dict[str, str], operations: MemoryOperations
) -> None:
    done = fusemld(environment, "stop", "--all", "--timeout", "0.1")

    assert operations.asked == [("stop", "True")]
    assert "it still runs after 0.1 s" in done.stderr  # the stand-in says that it is process 1


@pytest.mark.parametrize("timeout", ["-1", "nan", "inf", "1e10"])
def test_stop_leaves_the_daemon_alone_where_nobody_can_wait_so_long(
    environment: dict[str, str], operations: MemoryOperations, timeout: str
) -> None:
    done = fusemld(environment, "stop", "--timeout", timeout)

    assert done.returncode == 2
    assert f"{timeout} is not from 0 to 1000000000" in done.stderr
    assert operations.asked == []


def test_stop_without_a_daemon_is_exit_status_4(environment: dict[str, str], tmp_path: Path) -> None:
    assert fusemld(environment, "stop", "--socket", str(tmp_path / "none")).returncode == 4


def test_stopping_everything_says_where_no_daemon_has_ever_been(
    environment: dict[str, str], tmp_path: Path
) -> None:
    places = ("--socket", str(tmp_path / "none"), "--state", str(tmp_path / "state"))

    done = fusemld(environment, "stop", "--all", *places)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"no daemon was running; none has used {tmp_path}/state yet\n"
    assert not (tmp_path / "state").exists()


def test_check_passes_on_a_host_that_has_everything_it_needs(environment: dict[str, str], tmp_path: Path) -> None:
    done = fusemld(environment, "check", "--state", str(tmp_path), "--set", "process.sandbox=off", "-o", "json")
    found = {each["name"]: each for each in json.loads(done.stdout)}

    assert done.returncode == 0
    assert {"python", "uv", "git", "sandbox", "state folder", "disk space", "socket", "plugins"} <= set(found)
    assert "a daemon runs there" in found["socket"]["message"]


def test_check_fails_with_a_remedy_for_every_failure(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")

    done = fusemld(environment, "check", "--state", str(file / "state"), "--socket", "/" + "x" * 200)

    assert done.returncode == 1
    assert f"{file}/state is not a folder" in done.stdout
    assert "socket: choose a shorter one with --socket" in done.stdout


LEFT = Leftovers(
    server="https://c", namespace="n", pods=("p",), secrets=1, config_maps=2, applications=(), models=()
)


@pytest.mark.parametrize(
    ("options", "answer", "removed", "asked"),
    [
        (["--yes"], "", True, False),
        (["--dry-run"], "", False, False),
        ([], "y\n", True, True),
        ([], "n\n", False, True),
    ],
)
def test_what_is_cleaned_up_is_told_to_programs_and_questions_are_asked_of_people(
    monkeypatch: pytest.MonkeyPatch, options: list[str], answer: str, removed: bool, asked: bool
) -> None:
    def clean_up(settings: Settings, agree: Callable[[Leftovers], bool], *, keep_applications: bool) -> object:
        return "something" if agree(LEFT) else None

    monkeypatch.setattr("fusemld.daemon.cleanup.clean_up", clean_up)

    done = CliRunner().invoke(cleanup, [*options, "-o", "json"], input=answer)

    found = json.loads(done.stdout)
    assert (found["found"]["pods"], found["removed"]) == (["p"], removed)
    assert ("1 pods, 1 Secrets and 2 ConfigMaps in namespace n" in done.stderr) is asked
    assert ("remove all of this?" in done.stderr) is asked


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A state folder that a daemon has used."""

    async def create() -> None:
        async with Store.open(tmp_path / "fusemld.db"):
            pass

    anyio.run(create)
    return tmp_path


@pytest.mark.parametrize(
    ("wrong", "status", "message"),
    [
        ("kubeconfig", 1, "cannot read the kubeconfig"),
        ("context", 1, "context 'nope'"),
        ("port", 1, "Connect call failed"),
        ("token", 5, "Unauthorized"),
    ],
)
def test_what_is_wrong_with_the_cluster_that_is_cleaned_up_is_one_line(
    environment: dict[str, str], used: Path, wrong: str, status: int, message: str
) -> None:
    kubeconfig = used / "kubeconfig"
    given = {"context": ("--set", "kubernetes.context=nope")}
    with api_server() as server:
        address = "http://127.0.0.1:1" if wrong == "port" else server
        if wrong != "kubeconfig":
            write_kubeconfig(kubeconfig, address, "wrong" if wrong == "token" else TOKEN)
        setting = f"kubernetes.kubeconfig={kubeconfig}"
        done = fusemld(
            environment, "cleanup", "--yes", "--state", str(used), "--set", setting, *given.get(wrong, ())
        )

    assert (done.returncode, done.stdout) == (status, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("fusemld: cannot ")
    assert message in line


def test_a_question_that_nobody_answers_removes_nothing(environment: dict[str, str], used: Path) -> None:
    with api_server() as server:
        write_kubeconfig(used / "kubeconfig", server)
        setting = f"kubernetes.kubeconfig={used / 'kubeconfig'}"
        done = fusemld(environment, "cleanup", "--state", str(used), "--set", setting)

    assert done.returncode == 130
    assert "pod train" in done.stdout
    assert done.stderr == ("\nfusemld: nothing was removed: the question was not answered; --yes does not ask\n")


@pytest.mark.parametrize(("content", "status"), [(None, 3), ("no database", 2)])
def test_a_copy_that_cannot_be_restored_leaves_no_trace(
    environment: dict[str, str], tmp_path: Path, content: str | None, status: int
) -> None:
    file, state = tmp_path / "copy.db", tmp_path / "state"
    if content is not None:
        file.write_text(content)

    done = fusemld(environment, "restore", str(file), "--state", str(state))

    assert done.returncode == status
    assert done.stderr.startswith(f"fusemld: cannot restore {file}: ")
    assert not state.exists()


@pytest.mark.parametrize("command", ["run", "restore"])
def test_a_state_folder_below_a_file_is_one_line(environment: dict[str, str], used: Path, command: str) -> None:
    file = ("fusemld.db",) if command == "restore" else ()

    done = fusemld(
        environment, command, *(str(used / name) for name in file), "--state", str(used / "fusemld.db/x")
    )

    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line == f"fusemld: cannot use the state folder {used}/fusemld.db/x: Not a directory"
