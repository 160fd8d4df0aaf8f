"""Answers that come piece by piece and may never end."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import aiohttp

from fusemld.model.errors import UnavailableError


class SilentError(UnavailableError):
    """nothing came for as long as was allowed"""


async def chunks(response: aiohttp.ClientResponse, doing: str) -> AsyncGenerator[bytes]:
    """Raises `SilentError` where nothing comes for the time that the request allowed, `UnavailableError` where the
    connection breaks."""
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except TimeoutError as error:
        raise SilentError(f"cannot {doing}: nothing came for too long") from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(f"cannot {doing}: {str(error) or type(error).__name__}") from error


async def lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[list[bytes]]:
    """Whole lines, without their ends, as many at a time as came together."""
    begun: list[bytes] = []
    async for piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        if others:
            whole = [b"".join(begun), *others[:-1]]
            begun = [others[-1]]
            yield whole


def leave(response: aiohttp.ClientResponse) -> None:
    """Closes at once: closing TLS politely waits for the server, which may be the one that has gone silent."""
    if (connection := response.connection) is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()
