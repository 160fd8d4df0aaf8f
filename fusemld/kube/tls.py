"""TLS contexts from certificates in memory."""

from __future__ import annotations

import os
import ssl

import msgspec

from fusemld.model.errors import StartError


class TlsMaterial(msgspec.Struct, frozen=True, kw_only=True):
    """PEM. Without `authority` the authorities of the host are trusted."""

    authority: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    is_verified: bool = True

    def __repr__(self) -> str:
        return "TlsMaterial(<hidden>)"


def context(material: TlsMaterial) -> ssl.SSLContext:
    """Raises `StartError` that names what is wrong, without its content."""
    try:
        text = None if material.authority is None else material.authority.decode("ascii")
        made = ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError) as error:
        raise StartError(
            f"cannot use the certificate authority: it is no PEM certificate ({_cause(error)})"
        ) from None
    # Authorities that old installers made have no key identifiers; Go, and so every other client, takes them.
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not material.is_verified:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if material.certificate is not None:
        _load_client_certificate(made, material.certificate, material.key or b"")
    return made


class TlsCache:
    """The context of the material used last."""

    def __init__(self) -> None:
        self._last: tuple[TlsMaterial, ssl.SSLContext] | None = None

    def context(self, material: TlsMaterial) -> ssl.SSLContext:
        if self._last is None or self._last[0] != material:
            self._last = material, context(material)
        return self._last[1]


def _load_client_certificate(made: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """OpenSSL's bindings take files only; this one is in memory and has no name."""
    with os.fdopen(os.memfd_create("client-certificate"), "wb") as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        try:
            made.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=_no_password)
        except (OSError, ValueError) as error:
            raise StartError(f"cannot use the client certificate and key: {_cause(error)}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _cause(error: Exception) -> str:
    return (error.reason if isinstance(error, ssl.SSLError) else "") or str(error) or type(error).__name__
