from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from fusemld.kube.tls import TlsCache, TlsMaterial, context
from fusemld.model.errors import StartError
from tests.kube.conftest import Pems


def test_authority_and_client_certificate_come_from_memory_and_leave_no_file(
    pems: Pems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    files = _open_files()
    authority = pems.certificate.read_bytes()

    made = context(TlsMaterial(authority=authority, certificate=authority, key=pems.key.read_bytes()))

    assert [entry["subject"] for entry in made.get_ca_certs()] == [((("commonName", "it"),),)]
    assert made.verify_mode == ssl.CERT_REQUIRED
    assert not list(tmp_path.iterdir())
    assert _open_files() <= files


def test_verification_can_be_switched_off() -> None:
    made = context(TlsMaterial(is_verified=False))

    assert (made.verify_mode, made.check_hostname) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize(
    ("material", "problem"),
    [
        (TlsMaterial(authority=b"nonsense"), "cannot use the certificate authority"),
        (TlsMaterial(authority=b"\xff"), "cannot use the certificate authority"),
        (TlsMaterial(certificate=b"nonsense", key=b"s3cr3t"), "cannot use the client certificate and key"),
    ],
)
def test_what_is_no_certificate_is_told_without_its_content(material: TlsMaterial, problem: str) -> None:
    with pytest.raises(StartError, match=problem) as raised:
        context(material)

    assert "s3cr3t" not in str(raised.value) + repr(material)


def test_a_certificate_without_its_key_is_told(pems: Pems) -> None:
    with pytest.raises(StartError, match="cannot use the client certificate and key"):
        context(TlsMaterial(certificate=pems.certificate.read_bytes()))


def test_the_context_stays_the_same_while_its_material_does(pems: Pems) -> None:
    cache, authority = TlsCache(), pems.certificate.read_bytes()

    first = cache.context(TlsMaterial(authority=authority))

    assert cache.context(TlsMaterial(authority=bytes(authority))) is first
    assert cache.context(TlsMaterial()) is not first


def _open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}
