from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusemld.kube.config import KubeconfigFiles, ServiceAccountFolder
from fusemld.model.errors import StartError
from tests.kube.conftest import Pems

SECRET = "s3cr3t-t0ken"
URL = "https://api.example:6443"
PLUGIN_VERSION = "client.authentication.k8s.io/v1"


def kubeconfig_of(path: Path, user: dict[str, Any], **cluster: Any) -> Path:
    content = {
        "clusters": [{"name": "it", "cluster": {"server": f"{URL}/"} | cluster}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "it", "user": "me", "namespace": "team"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({"token": SECRET}, f"Bearer {SECRET}"),
        ({"username": "me", "password": "pw"}, "Basic " + base64.b64encode(b"me:pw").decode()),
        ({}, ""),
    ],
)
async def test_a_user_of_a_kubeconfig_becomes_a_header(tmp_path: Path, user: dict[str, Any], header: str) -> None:
    access = await KubeconfigFiles([kubeconfig_of(tmp_path / "config", user)], "").load()

    assert (access.server, access.namespace, access.authorization) == (URL, "team", header)
    assert access.renew_at is None
    assert SECRET not in repr(access)


async def test_a_token_file_is_read_again_within_minutes(tmp_path: Path) -> None:
    source = KubeconfigFiles([kubeconfig_of(tmp_path / "config", {"tokenFile": "token"})], "")
    (tmp_path / "token").write_text("one\n")

    first = await source.load()
    (tmp_path / "token").write_text("two\n")
    second = await source.load()

    assert (first.authorization, second.authorization) == ("Bearer one", "Bearer two")
    assert first.renew_at is not None
    assert first.renew_at - time.time() < 120


async def test_client_certificates_and_the_authority_become_one_tls_context(tmp_path: Path, pems: Pems) -> None:
    user = {"client-certificate": str(pems.certificate), "client-key": str(pems.key)}
    authority = base64.b64encode(pems.certificate.read_bytes()).decode()
    path = kubeconfig_of(tmp_path / "config", user, **{"certificate-authority-data": authority})
    source = KubeconfigFiles([path], "")

    first, second = await source.load(), await source.load()

    assert first.tls is not None
    assert len(first.tls.get_ca_certs()) == 1
    assert second.tls is first.tls


async def test_an_exec_plugin_is_asked_again_when_its_credentials_expire(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    expiry = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    credential = {
        "apiVersion": PLUGIN_VERSION,
        "kind": "ExecCredential",
        "status": {"token": "TOKEN", "expirationTimestamp": expiry},
    }
    plugin.write_text(
        f"#!/bin/sh\necho run >>{tmp_path}/runs\nn=$(wc -l <{tmp_path}/runs)\n"
        f"printf '%s' '{json.dumps(credential)}' | sed s/TOKEN/token$n/\n"
    )
    plugin.chmod(0o755)
    user = {"exec": {"apiVersion": PLUGIN_VERSION, "command": "./plugin", "env": None, "args": None}}
    source = KubeconfigFiles([kubeconfig_of(tmp_path / "config", user)], "")

    first, second = await source.load(), await source.load()

    assert (first.authorization, second.authorization) == ("Bearer token1", "Bearer token2")
    assert first.renew_at is not None
    assert 3500 < first.renew_at - time.time() < 3600


async def test_an_exec_plugin_may_give_a_certificate(tmp_path: Path, pems: Pems) -> None:
    status = {"clientCertificateData": pems.certificate.read_text(), "clientKeyData": pems.key.read_text()}
    (tmp_path / "answer").write_text(
        json.dumps({"apiVersion": PLUGIN_VERSION, "kind": "ExecCredential", "status": status})
    )
    user = {"exec": {"apiVersion": PLUGIN_VERSION, "command": "cat", "args": [str(tmp_path / "answer")]}}

    access = await KubeconfigFiles([kubeconfig_of(tmp_path / "config", user)], "").load()

    assert access.authorization == ""
    assert access.tls is not None


async def test_somebody_else_is_impersonated_as_the_user_says(tmp_path: Path) -> None:
    user = {"token": "x", "as": "robot", "as-groups": ["a", "b"], "as-user-extra": {"Scope/One": ["s"]}}

    access = await KubeconfigFiles([kubeconfig_of(tmp_path / "config", user)], "").load()

    assert access.impersonation == (
        ("Impersonate-User", "robot"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-scope%2Fone", "s"),
    )


@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ({"token": f"{SECRET}\r\nX-Evil: 1"}, "a header cannot have these characters"),
        ({"tokenFile": "absent"}, "FileNotFoundError"),
        ({"auth-provider": {"name": "oidc", "config": {"id-token": SECRET}}}, "ValueError"),
    ],
)
async def test_credentials_that_cannot_be_used_name_the_file_and_nothing_secret(
    tmp_path: Path, user: dict[str, Any], problem: str
) -> None:
    path = kubeconfig_of(tmp_path / "config", user)

    with pytest.raises(StartError, match=problem) as raised:
        await KubeconfigFiles([path], "").load()

    assert str(path) in str(raised.value)
    assert SECRET not in str(raised.value)


async def test_of_listed_files_those_that_are_there_are_merged(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.write_text("current-context: here\n")
    second = kubeconfig_of(tmp_path / "second", {"token": "x"})

    access = await KubeconfigFiles([first, tmp_path / "absent", second], "").load()

    assert access.authorization == "Bearer x"


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
async def test_where_no_file_is_there_all_are_named(tmp_path: Path, names: list[str]) -> None:
    paths = [tmp_path / name for name in names]

    with pytest.raises(StartError, match=f"{':'.join(map(str, paths))}: No such file or directory"):
        await KubeconfigFiles(paths, "").load()


def service_account(folder: Path, pems: Pems) -> ServiceAccountFolder:
    (folder / "token").write_text("first\n")
    (folder / "namespace").write_text("team")
    (folder / "ca.crt").write_bytes(pems.certificate.read_bytes())
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    return ServiceAccountFolder(folder, environ)


async def test_a_service_account_gives_everything_and_its_token_is_read_again(tmp_path: Path, pems: Pems) -> None:
    account = service_account(tmp_path, pems)

    first = await account.load()
    (tmp_path / "token").write_text("second\n")
    second = await account.load()

    assert account.is_there()
    assert (first.server, first.namespace, first.authorization) == (
        "https://[fd00::1]:443",
        "team",
        "Bearer first",
    )
    assert second.authorization == "Bearer second"
    assert second.tls is first.tls
    assert first.renew_at is not None
    assert first.renew_at - time.time() < 120


@pytest.mark.parametrize("missing", ["token", "ca.crt", "namespace"])
async def test_a_service_account_with_a_part_missing_is_told(tmp_path: Path, pems: Pems, missing: str) -> None:
    account = service_account(tmp_path, pems)
    (tmp_path / missing).unlink()

    with pytest.raises(StartError, match=f"cannot use the service account in {tmp_path}"):
        await account.load()


async def test_outside_a_pod_there_is_no_service_account(tmp_path: Path) -> None:
    account = ServiceAccountFolder(tmp_path, {})

    assert not account.is_there()
    with pytest.raises(StartError, match="Service host/port is not set"):
        await account.load()


@pytest.mark.parametrize(
    "server", ["", "near", "file:///etc/passwd", "https://", "https://me:s3cr3t-t0ken@near", "https://[::1"]
)
async def test_a_server_needs_a_url_without_credentials(tmp_path: Path, server: str) -> None:
    path = kubeconfig_of(tmp_path / "config", {}, server=server)

    with pytest.raises(StartError, match=r"is no URL of an API server|has no server") as raised:
        await KubeconfigFiles([path], "").load()

    assert SECRET not in str(raised.value)


async def test_a_proxy_is_taken_from_the_kubeconfig_if_it_speaks_http(tmp_path: Path) -> None:
    fine = kubeconfig_of(tmp_path / "fine", {}, **{"proxy-url": "http://proxy:3128"})
    other = kubeconfig_of(tmp_path / "other", {}, **{"proxy-url": "socks5://proxy:1080"})

    assert (await KubeconfigFiles([fine], "").load()).proxy == "http://proxy:3128"
    with pytest.raises(StartError, match="only HTTP proxies are supported"):
        await KubeconfigFiles([other], "").load()
