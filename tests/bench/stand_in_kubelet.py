"""Plays scheduler and kubelet for pods that do nothing: `python -m tests.bench.stand_in_kubelet`.

Every pod is bound to the one node `stand-in`, then its status becomes Succeeded: two writes, so that as little as
possible of the API server's time is the same for everybody who makes pods (a real kubelet writes more). Logs, all
empty, are served over HTTPS where the API server asks the node for them. One line is printed when it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import ssl
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

NODE = "stand-in"
LINE_LIMIT = 2**22
KEEPALIVE_S = 3600.0


class StandInKubelet:
    def __init__(self, session: aiohttp.ClientSession, server: str, namespace: str) -> None:
        self._session = session
        self._nodes = f"{server}/api/v1/nodes"
        self._pods = f"{server}/api/v1/namespaces/{namespace}/pods"
        self._played: set[str] = set()

    async def register(self, port: int) -> None:
        node = {
            "metadata": {"name": NODE},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
        await self._ask("POST", self._nodes, node)

    async def run(self) -> None:
        """Until cancelled; the server's watches end every few minutes."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                async with self._session.get(self._pods) as answer:
                    listed = await answer.json()
                for pod in listed["items"]:
                    self._see(pod, tasks)
                since = listed["metadata"]["resourceVersion"]
                query = {"watch": "1", "resourceVersion": since}
                async with self._session.get(self._pods, params=query) as answer:
                    async for line in answer.content:
                        event = json.loads(line)
                        if event["type"] in ("ADDED", "MODIFIED"):
                            self._see(event["object"], tasks)

    def _see(self, pod: dict[str, Any], tasks: asyncio.TaskGroup) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._played and "deletionTimestamp" not in pod["metadata"]:
            self._played.add(uid)
            tasks.create_task(self._play(pod), name=pod["metadata"]["name"])

    async def _play(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}}
        await self._ask("POST", f"{self._pods}/{name}/binding", binding)
        now = _now()
        terminated = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}
        containers = [
            {
                "name": each["name"],
                "image": each["image"],
                "imageID": "none",
                "ready": False,
                "started": False,
                "restartCount": 0,
                "state": {"terminated": terminated},
            }
            for each in pod["spec"]["containers"]
        ]
        status = {"phase": "Succeeded", "startTime": now, "containerStatuses": containers}
        await self._ask("PATCH", f"{self._pods}/{name}/status", {"status": status})

    async def _ask(self, method: str, url: str, body: dict[str, Any]) -> None:
        """A pod that has gone in between is nobody's concern."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = json.dumps(body).encode()
        async with self._session.request(method, url, data=data, headers={"Content-Type": kind}) as answer:
            text = await answer.text()
            assert answer.ok or answer.status in (404, 409), f"{method} {url}: {answer.status} {text}"


async def _log(_: web.Request) -> web.Response:
    return web.Response(body=b"", content_type="text/plain")


def own_tls() -> ssl.SSLContext:
    """With a certificate that the API server does not check."""
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder) / "key", Path(folder) / "certificate"
        subject = ["-days", "2", "-subj", "/CN=stand-in"]
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command = ["openssl", "req", "-x509", *kind, *subject]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
    return context


async def serve_logs(tls: ssl.SSLContext) -> tuple[web.AppRunner, int]:
    """Every log is empty; the port."""
    application = web.Application()
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", _log)
    # A connection that ends just when the API server uses it again would be a log that cannot be read.
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=KEEPALIVE_S)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    return runner, int(runner.addresses[0][1])


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--authority", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--namespace", required=True)
    return parser.parse_args()


async def main(tls: ssl.SSLContext) -> None:
    given = arguments()
    trust = ssl.create_default_context(cafile=given.authority)
    trust.check_hostname = False
    runner, port = await serve_logs(tls)
    session = aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {given.token}"},
        connector=aiohttp.TCPConnector(ssl=trust, limit=64),
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=LINE_LIMIT,
    )
    async with session:
        kubelet = StandInKubelet(session, given.server, given.namespace)
        await kubelet.register(port)
        print("ready", flush=True)
        await kubelet.run()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(own_tls()))
