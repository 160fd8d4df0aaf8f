from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from fusemld.kube import exec_plugin
from fusemld.kube.kubeconfig import Cluster, ExecPlugin, Variable
from fusemld.model.errors import StartError, UnavailableError

V1 = "client.authentication.k8s.io/v1"
SERVER = Cluster(server="https://it:6443", tls_server_name="it")
MakePlugin = Callable[[str], ExecPlugin]


@pytest.fixture
def plugin(tmp_path: Path) -> MakePlugin:
    def make(script: str) -> ExecPlugin:
        path = tmp_path / "plugin"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return ExecPlugin(api_version=V1, command=str(path), install_hint="apt install it")

    return make


def is_running(pid: str) -> bool:
    """Not so where it is gone, or waits for its parent to notice its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def printing(status: dict[str, str], version: str = V1) -> str:
    return f"printf '%s' '{json.dumps({'apiVersion': version, 'kind': 'ExecCredential', 'status': status})}'"


async def test_a_program_gives_a_token_and_its_expiry(plugin: MakePlugin) -> None:
    made = plugin(printing({"token": "abc", "expirationTimestamp": "2030-01-02T03:04:05Z"}))

    status = await exec_plugin.run(made, SERVER)

    assert status.token == "abc"
    assert status.expiration_timestamp is not None
    assert status.expiration_timestamp.timestamp() == 1893553445
    assert "abc" not in repr(status)


async def test_a_program_is_told_what_it_is_for(plugin: MakePlugin, tmp_path: Path) -> None:
    made = plugin(f'printf "%s" "$KUBERNETES_EXEC_INFO" >{tmp_path}/info; {printing({"token": "x"})}')

    await exec_plugin.run(
        ExecPlugin(
            api_version=V1, command=made.command, provide_cluster_info=True, env=(Variable(name="A", value="b"),)
        ),
        SERVER,
    )

    info = json.loads((tmp_path / "info").read_text())
    assert info["apiVersion"] == V1
    assert info["spec"] == {
        "interactive": False,
        "cluster": {"server": "https://it:6443", "tls-server-name": "it"},
    }


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo nonsense", "printed"),
        (printing({}), "neither a token nor a certificate"),
        (printing({"token": "x"}, "client.authentication.k8s.io/v1beta1"), "the kubeconfig says"),
        (printing({"token": "x", "expirationTimestamp": "soon"}), "expirationTimestamp"),
    ],
)
async def test_what_a_program_prints_wrongly_is_a_start_error(
    plugin: MakePlugin, script: str, problem: str
) -> None:
    with pytest.raises(StartError, match=problem):
        await exec_plugin.run(plugin(script), SERVER)


async def test_a_program_that_fails_is_quoted_and_may_work_later(plugin: MakePlugin) -> None:
    with pytest.raises(UnavailableError, match="ended with status 3: please log in"):
        await exec_plugin.run(plugin("echo please log in >&2; exit 3"), SERVER)


async def test_a_program_that_hangs_is_quoted_and_killed_with_what_it_started(
    plugin: MakePlugin, tmp_path: Path
) -> None:
    made = plugin(f"echo open it/login in a browser >&2; sleep 60 & echo $$ $! >{tmp_path}/pids; wait")

    with pytest.raises(
        UnavailableError, match=r"plugin .*/plugin: it took longer than 0\.3 s: open it/login in a browser"
    ):
        await exec_plugin.run(made, SERVER, timeout_s=0.3)

    with anyio.fail_after(2):
        while any(map(is_running, (tmp_path / "pids").read_text().split())):
            await anyio.lowlevel.checkpoint()


async def test_a_program_that_is_not_there_is_told_with_the_hint_of_the_kubeconfig() -> None:
    absent = ExecPlugin(api_version=V1, command="/absent/login", install_hint="apt install it")

    with pytest.raises(StartError, match="/absent/login: No such file or directory; apt install it"):
        await exec_plugin.run(absent, SERVER)


async def test_a_program_that_wants_a_terminal_is_refused() -> None:
    with pytest.raises(StartError, match="wants a terminal"):
        await exec_plugin.run(ExecPlugin(api_version=V1, command="x", interactive_mode="Always"), SERVER)
