from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml

from fusemld.kube.records import given
from fusemld.model.errors import StartError
from tests.kube.conftest import Pems

SECRET = "s3cr3t-t0ken"
URL = "https://api.example:6443"


def kubeconfig_of(user: dict[str, Any], **cluster: str) -> str:
    content = {
        "clusters": [{"name": "it", "cluster": {"server": "https://elsewhere"} | cluster}],
        "users": [{"name": "me", "user": user}],
        "contexts": [{"name": "here", "context": {"cluster": "it", "user": "me", "namespace": "team"}}],
        "current-context": "here",
    }
    return yaml.safe_dump(content)


async def test_a_record_brings_a_token_and_an_authority(pems: Pems) -> None:
    configuration = {"token": SECRET, "ca": pems.certificate.read_text(), "namespace": "models"}

    access = await given(URL, configuration, "r/s").load()

    assert (access.server, access.namespace, access.authorization) == (URL, "models", f"Bearer {SECRET}")
    assert access.tls is not None
    assert len(access.tls.get_ca_certs()) == 1


async def test_a_record_brings_certificates(pems: Pems) -> None:
    configuration = {
        "client-certificate-data": base64.b64encode(pems.certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pems.key.read_bytes()).decode(),
        "certificate-authority-data": base64.b64encode(pems.certificate.read_bytes()).decode(),
    }

    access = await given(URL, configuration, "r/s").load()

    assert access.authorization == ""
    assert access.tls is not None


async def test_a_record_may_bring_a_kubeconfig_whose_server_is_that_of_the_record() -> None:
    text = kubeconfig_of({"token": SECRET})

    access = await given("https://other:6443", {"kubeconfig": text}, "r/s").load()

    assert (access.server, access.namespace, access.authorization) == (
        "https://other:6443",
        "team",
        f"Bearer {SECRET}",
    )


@pytest.mark.parametrize(
    "user",
    [
        {"exec": {"apiVersion": "v1", "command": "touch"}},
        {"tokenFile": "/etc/shadow"},
        {"client-certificate": "/etc/shadow"},
        {"client-key": "/etc/shadow"},
        {"auth-provider": {"name": "gcp", "config": {"cmd-path": "touch"}}},
    ],
)
def test_a_record_cannot_make_the_daemon_read_files_or_run_programs(user: dict[str, Any]) -> None:
    text = kubeconfig_of(user)

    with pytest.raises(StartError, match=f"kubeconfig of the record r/s: {next(iter(user))} would reach into"):
        given(URL, {"kubeconfig": text}, "r/s")


def test_a_records_authority_cannot_be_a_file_of_the_host() -> None:
    text = kubeconfig_of({}, **{"certificate-authority": "/etc/passwd"})

    with pytest.raises(StartError, match="certificate-authority would reach into"):
        given(URL, {"kubeconfig": text}, "r/s")


@pytest.mark.parametrize("url", ["", "near", "file:///etc/passwd", f"https://me:{SECRET}@near"])
async def test_a_record_needs_a_url_of_a_server(url: str) -> None:
    with pytest.raises(StartError, match="in the record r/s: it is no URL of an API server") as raised:
        await given(url, {}, "r/s").load()

    assert SECRET not in str(raised.value)
