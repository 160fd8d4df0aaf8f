"""What a request needs to be let in."""

from __future__ import annotations

import ssl
from typing import Protocol

import msgspec


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """`authorization` is the header's value, empty where a client certificate (in `tls`) or nothing is shown.

    `impersonation` are the headers that ask to be somebody else. From `renew_at` (seconds since the epoch) it
    should be asked for anew.
    """

    server: str
    namespace: str = ""
    authorization: str = ""
    impersonation: tuple[tuple[str, str], ...] = ()
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    proxy: str | None = None
    renew_at: float | None = None

    def __repr__(self) -> str:
        return f"Access(server={self.server!r}, namespace={self.namespace!r})"


class AccessSource(Protocol):
    async def load(self) -> Access:
        """Reads the credentials anew, within a bound of its own. Raises `StartError` where they are wrong in form
        or absent, `UnavailableError` where what gives them fails or takes too long."""

    async def place(self) -> Access:
        """Where the server is, without the credentials, which are due at once. Raises `StartError`."""
