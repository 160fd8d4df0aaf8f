from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from fusemld.executors.kubernetes.fetching import FETCH, arguments, is_fetchable, variables
from fusemld.hooks.executors import MountedCodeset
from tests.codesets.conftest import Repository
from tests.codesets.git_server import CANARY, serving

Done = subprocess.CompletedProcess[bytes]
Fetch = Callable[[MountedCodeset], Done]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repositories/digits")


@pytest.fixture
def server(repository: Repository) -> Iterator[str]:
    with serving(repository.folder.parent) as url:
        yield url


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


@pytest.fixture
def fetch(shell_argv: tuple[list[str], str], tmp_path: Path, target: Path, own: Path) -> Fetch:
    """Runs the script as the init container does, with nothing but a shell's tools, git and (a double of) ssh."""
    argv, path = shell_argv
    tools = tmp_path / "tools"
    tools.mkdir()
    git = shutil.which("git")
    assert git is not None
    (tools / "git").symlink_to(git)

    def run(codeset: MountedCodeset) -> Done:
        given = arguments(codeset, 3, str(target))
        assert CANARY not in " ".join(given)
        return subprocess.run(
            [*argv, "-c", FETCH, "fusemld", str(own), *given],
            capture_output=True,
            env={"PATH": f"{tools}:{path}", **variables(codeset, 3)},
            check=False,
        )

    return run


def codeset(url: str, version: str, credentials: Mapping[str, str] | None = None) -> MountedCodeset:
    return MountedCodeset(
        path="/project",
        project="my project",
        name="digits",
        version=version,
        digest="d",
        source=Path("/nowhere"),
        url=url,
        credentials=credentials or {},
    )


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_pinned_commit_is_fetched_and_no_other_and_no_history(
    fetch: Fetch, repository: Repository, target: Path
) -> None:
    commit = repository.commit({"a.txt": "one", "bin/run": "x"})
    repository.commit({"a.txt": "two"})

    done = fetch(codeset(repository.url, commit))

    assert (done.returncode, done.stderr) == (0, b"")
    identity = {".fuseml/_org": "my project", ".fuseml/_project": "digits"}
    assert contents(target) == {"a.txt": "one", "bin/run": "x"} | identity


def test_everybody_may_write_what_was_fetched_and_programs_stay_executable(
    fetch: Fetch, repository: Repository, target: Path
) -> None:
    (repository.folder / "run").write_text("#!/bin/sh\n")
    (repository.folder / "run").chmod(0o755)
    (repository.folder / "latest").symlink_to("run")

    done = fetch(codeset(repository.url, repository.commit({"deep/a.txt": "one"})))

    assert done.returncode == 0
    modes = {name: (target / name).lstat().st_mode & 0o777 for name in ("run", "deep", "deep/a.txt")}
    assert modes == {"run": 0o777, "deep": 0o777, "deep/a.txt": 0o666}
    assert (target / "latest").readlink() == Path("run")


def test_a_password_opens_the_repository_and_is_written_nowhere(
    fetch: Fetch, repository: Repository, server: str, target: Path, own: Path
) -> None:
    commit = repository.commit({"a.txt": "one"})
    credentials = {"username": "ann", "password": CANARY}

    done = fetch(codeset(f"{server}/digits/.git", commit, credentials))

    assert (done.returncode, done.stderr) == (0, b"")
    assert contents(target)["a.txt"] == "one"
    assert not any(CANARY in text for folder in (target, own) for text in contents(folder).values())


@pytest.mark.parametrize("password", ["", "wrong"])
def test_without_the_password_git_says_why_and_of_which_codeset(
    fetch: Fetch, repository: Repository, server: str, password: str
) -> None:
    commit = repository.commit({"a.txt": "one"})

    done = fetch(codeset(f"{server}/digits/.git", commit, {"username": "ann", "password": password}))

    assert done.returncode != 0
    assert done.stderr.startswith(b"my project/digits: ")
    assert b"fatal:" in done.stderr


def test_a_redirect_to_another_host_does_not_get_the_password(
    fetch: Fetch, repository: Repository, server: str
) -> None:
    commit = repository.commit({"a.txt": "one"})

    done = fetch(codeset(f"{server}/moved/digits/.git", commit, {"username": "ann", "password": CANARY}))

    assert done.returncode != 0
    assert CANARY.encode() not in done.stderr


def test_a_server_that_hands_out_no_single_commits_is_asked_for_everything(
    fetch: Fetch, repository: Repository, target: Path
) -> None:
    commit = repository.commit({"a.txt": "one"})
    repository.commit({"a.txt": "two"})
    repository.git("config", "uploadpack.allowAnySHA1InWant", "false")

    # The older protocol: with version 2 every commit can be asked for.
    (target.parent / "own/.gitconfig").write_text("[protocol]\n    version = 0\n")

    done = fetch(codeset(repository.url, commit))

    assert done.returncode == 0, done.stderr
    assert contents(target)["a.txt"] == "one"


def test_a_commit_that_is_not_there_is_an_error(fetch: Fetch, repository: Repository) -> None:
    repository.commit({"a.txt": "one"})

    done = fetch(codeset(repository.url, "1" * 40))

    assert done.returncode != 0
    assert b"my project/digits: fatal: " in done.stderr
    assert b"1" * 40 in done.stderr


def test_an_ssh_key_reaches_ssh_in_a_private_file(fetch: Fetch, tmp_path: Path, own: Path) -> None:
    note = tmp_path / "note"
    ssh = tmp_path / "tools/ssh"
    ssh.write_text(
        f'#!/bin/sh\necho "$@" >{note}\nwhile [ "$1" != -i ]; do shift; done\n'
        f'ls -l "$2" | cut -c 1-10 >>{note}\ncat "$2" >>{note}\nexit 1\n'
    )
    ssh.chmod(0o755)

    done = fetch(
        codeset("git@example.org:a.git", "1" * 40, {"ssh_key": "THE KEY", "known_hosts": "example.org x y"})
    )

    assert done.returncode != 0
    options, rights, key = note.read_text().splitlines()
    assert (rights, key) == ("-rw-------", "THE KEY")
    assert "StrictHostKeyChecking=yes" in options
    assert f"UserKnownHostsFile={own}/known_hosts" in options
    assert "BatchMode=yes" in options


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/a.git", True),
        ("git@example.org:a.git", True),
        ("ssh://git@example.org/a.git", True),
        ("file:///srv/a.git", False),
        ("/srv/a.git", False),
        ("", False),
    ],
)
def test_what_is_on_the_daemons_own_host_cannot_be_fetched_by_a_pod(url: str, expected: bool) -> None:
    assert is_fetchable(codeset(url, "c")) is expected
