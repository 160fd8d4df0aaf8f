"""Asking a service whether it is ready."""

from __future__ import annotations

import aiohttp

from fusemld.hooks.services import HttpProbe

_TIMEOUT = aiohttp.ClientTimeout(total=3.0)


async def is_ready(probe: HttpProbe, host: str, port: int) -> bool:
    """Whether one request is answered as the probe wants; any trouble on the way means no."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(f"http://{host}:{port}{probe.path}", allow_redirects=False) as answer,
        ):
            return answer.status < 400 or answer.status in probe.accept
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
