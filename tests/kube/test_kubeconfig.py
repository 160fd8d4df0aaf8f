from __future__ import annotations

import base64
from pathlib import Path

import pytest

from fusemld.kube import kubeconfig
from fusemld.model.errors import StartError

SECRET = "s3cr3t-t0ken"
WHOLE = f"""
apiVersion: v1
kind: Config
clusters:
- {{name: near, cluster: {{server: "https://near:6443", certificate-authority: pki/ca.crt}}}}
- {{name: far, cluster: {{server: "https://far:6443", certificate-authority-data: QUJD}}}}
users:
- {{name: ann, user: {{token: {SECRET}}}}}
- {{name: bob, user: {{client-certificate: bob.crt, client-key: /etc/bob.key, tokenFile: ./token}}}}
- {{name: cyd, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: ./bin/login, args: [a]}}}}}}
contexts:
- {{name: one, context: {{cluster: near, user: ann, namespace: team}}}}
- {{name: two, context: {{cluster: far, user: bob}}}}
- {{name: bad, context: {{cluster: nowhere, user: ann}}}}
- {{name: nobody, context: {{cluster: far, user: zoe}}}}
- {{name: anonymous, context: {{cluster: far}}}}
current-context: one
"""


def test_the_current_context_is_used_unless_another_one_is_named() -> None:
    config = kubeconfig.parse(WHOLE, "it")

    current = kubeconfig.select(config, "", "it")
    other = kubeconfig.select(config, "two", "it")

    assert (current.cluster.server, current.user.token, current.namespace) == ("https://near:6443", SECRET, "team")
    assert (other.cluster.server, other.user.token, other.namespace) == ("https://far:6443", "", "")


def test_a_context_without_a_user_is_anonymous() -> None:
    assert kubeconfig.select(kubeconfig.parse(WHOLE, "it"), "anonymous", "it").user == kubeconfig.User()


@pytest.mark.parametrize(
    ("context", "cause"),
    [
        ("three", "it has no context 'three' (it has: one, two, bad, nobody, anonymous)"),
        ("bad", "context 'bad' names the cluster 'nowhere', which is not there"),
        ("nobody", "context 'nobody' names the user 'zoe', who is not there"),
    ],
)
def test_what_cannot_be_selected_is_named(context: str, cause: str) -> None:
    with pytest.raises(StartError) as raised:
        kubeconfig.select(kubeconfig.parse(WHOLE, "it"), context, "/etc/kube")

    assert str(raised.value) == f"cannot use the kubeconfig /etc/kube: {cause}"


def test_without_a_current_context_one_must_be_named() -> None:
    config = kubeconfig.parse(WHOLE.replace("current-context: one", ""), "it")

    with pytest.raises(StartError, match="no current context"):
        kubeconfig.select(config, "", "it")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ("just words", "Expected `object`, got `str`"),
        ("clusters: {}", r"got `object` - at `\$.clusters`"),
        ("users: [{name: a, user: {token: 5}}]", r"Expected `str`, got `int` - at `\$.users\[0\].user.token`"),
        ("users: [{user: {}}]", "missing required field `name`"),
        (f"users: [{{name: a, user: {{token: {SECRET}: :", "it:1:45: it is no YAML"),
        (f"users: [{{name: a, user: {{token: *{SECRET}}}}}]", "it is no YAML"),
        (b"\xff\xfe\xff", "it is no YAML"),
    ],
)
def test_a_broken_file_is_named_with_the_place_but_without_its_content(text: str | bytes, problem: str) -> None:
    with pytest.raises(StartError, match=problem) as raised:
        kubeconfig.parse(text, "it")

    assert "cannot read the kubeconfig it" in str(raised.value)
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def test_of_merged_files_the_first_that_gives_a_name_wins() -> None:
    first = kubeconfig.parse("users: [{name: ann, user: {token: new}}]\ncontexts: []", "first")
    merged = kubeconfig.merge([first, kubeconfig.parse(WHOLE, "second")])

    assert kubeconfig.select(merged, "one", "it").user.token == "new"
    assert merged.current_context == "one"
    assert [entry.name for entry in merged.users or ()] == ["ann", "bob", "cyd"]


def test_paths_are_relative_to_the_file_that_holds_them(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(WHOLE)

    config = kubeconfig.read(tmp_path / "config")

    assert kubeconfig.select(config, "one", "it").cluster.certificate_authority == str(tmp_path / "pki/ca.crt")
    bob = kubeconfig.select(config, "two", "it").user
    assert (bob.client_certificate, bob.client_key) == (str(tmp_path / "bob.crt"), "/etc/bob.key")
    plugin = next(entry.user.exec for entry in config.users or () if entry.user and entry.user.exec)
    assert plugin.command == str(tmp_path / "bin/login")


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StartError, match=f"cannot read the kubeconfig {tmp_path / name}: "):
        kubeconfig.read(tmp_path / name)


def test_data_go_before_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from the file")
    data = base64.b64encode(b"from the data").decode()

    assert kubeconfig.content(data, str(tmp_path / "file"), "client-key") == b"from the data"
    assert kubeconfig.content("", str(tmp_path / "file"), "client-key") == b"from the file"
    assert kubeconfig.content("", "", "client-key") is None
    with pytest.raises(StartError, match="cannot read client-key /absent: No such file"):
        kubeconfig.content("", "/absent", "client-key")
    with pytest.raises(StartError, match="client-key-data: it is not base64") as raised:
        kubeconfig.content(SECRET, "", "client-key")
    assert SECRET not in str(raised.value)


def test_nothing_secret_is_in_a_repr() -> None:
    config = kubeconfig.parse(WHOLE, "it")
    plugin = kubeconfig.ExecPlugin(
        api_version="v1", command="login", env=(kubeconfig.Variable(name="A", value=SECRET),)
    )
    cluster = kubeconfig.Cluster(server="https://near", proxy_url=f"http://me:{SECRET}@proxy")

    selected = kubeconfig.select(config, "one", "it")

    assert SECRET not in repr(config) + repr(selected) + repr(config.users) + repr(plugin) + repr(cluster)
