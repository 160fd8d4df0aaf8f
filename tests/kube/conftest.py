"""Certificates for the tests of TLS."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec
import pytest


class Pems(msgspec.Struct, frozen=True, kw_only=True):
    """A certificate that is its own authority, for 127.0.0.1 and localhost, and its key."""

    certificate: Path
    key: Path


@pytest.fixture(scope="session")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Pems:
    folder = tmp_path_factory.mktemp("pems")
    made = Pems(certificate=folder / "it.crt", key=folder / "it.key")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=it",
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-keyout", str(made.key), "-out", str(made.certificate),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return made
