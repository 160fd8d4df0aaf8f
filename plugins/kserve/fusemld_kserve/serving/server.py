"""Serves one MLflow model over the Open Inference Protocol (V2) with MLServer; runs as a script.

    server.py --name NAME --model FOLDER --private-port PORT [--drain SECONDS]

The public listening socket comes in as file descriptor 3 (`LISTEN_FDS=1`) and is shared with the server that came
before. Nothing is accepted from it before the model is loaded; the private port answers only after that, so
whoever asks there knows about this process and not about its predecessor. After SIGTERM nothing new is
accepted, requests under way are answered, and connections end between requests.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from mlserver import ModelSettings, Settings
from mlserver.handlers import DataPlane, ModelRepositoryHandlers
from mlserver.registry import MultiModelRegistry
from mlserver.repository.factory import ModelRepositoryFactory
from mlserver.rest.app import create_app
from mlserver.settings import ModelParameters
from runtime import MlflowRuntime

LISTEN_FD = 3
KEEP_ALIVE_S = 5
ACCEPT_SETTLE_S = 0.2

App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]
log = logging.getLogger("fusemld.serving")


class Draining:
    """Wraps an ASGI application: once `active`, every answer asks the client to close the connection."""

    def __init__(self, app: App) -> None:
        self._app = app
        self.active = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        async def closing(message: MutableMapping[str, Any]) -> None:
            if self.active and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, closing if scope["type"] == "http" else send)


class Server(uvicorn.Server):
    """A uvicorn server over a given socket whose process handles the signals."""

    def __init__(self, app: App, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                loop="none",
            )
        )
        self._listener = listener

    def install_signal_handlers(self) -> None:
        """Of uvicorn before 0.29."""

    async def start(self) -> asyncio.Task[None]:
        """Returns when connections are accepted."""
        task = asyncio.create_task(self._serve([self._listener]))
        while not self.started:
            if task.done():
                task.result()
                raise RuntimeError("the HTTP server ended while it was starting")
            await asyncio.sleep(0.01)
        return task

    async def drain(self, timeout_s: float) -> None:
        """Accept nothing more, and wait until the clients are gone, or for the time of an idle connection.

        What the event loop has accepted already must become a connection before its server is closed, or it
        would be dropped: so first only the readiness callback goes. What is in the kernel's queue stays there
        for the process that shares the socket.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        await asyncio.sleep(ACCEPT_SETTLE_S)
        for server in self.servers:
            server.close()
        deadline = loop.time() + timeout_s
        while self.server_state.connections and loop.time() < deadline:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.05)


def data_plane(settings: Settings, registry: MultiModelRegistry) -> App:
    app: App = create_app(
        settings,
        data_plane=DataPlane(settings=settings, model_registry=registry),
        model_repository_handlers=ModelRepositoryHandlers(
            repository=ModelRepositoryFactory.resolve_model_repository(settings), model_registry=registry
        ),
    )
    return app


async def serve(name: str, model: Path, private_port: int, drain_s: float) -> None:
    terminated = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminated.set)

    public_socket = socket.socket(fileno=LISTEN_FD)
    private_socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    private_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    private_socket.bind(("127.0.0.1", private_port))

    settings = Settings(
        debug=False, parallel_workers=0, metrics_endpoint=None, load_models_at_startup=False, gzip_enabled=False
    )
    registry = MultiModelRegistry()
    log.info("loading the model from %s", model)
    await registry.load(
        ModelSettings(name=name, implementation=MlflowRuntime, parameters=ModelParameters(uri=str(model)))
    )

    app = data_plane(settings, registry)
    draining = Draining(app)
    public, private = Server(draining, public_socket), Server(app, private_socket)
    tasks = [await public.start(), await private.start()]
    log.info("ready: %s on port %d", name, public_socket.getsockname()[1])

    ended = asyncio.create_task(terminated.wait())
    await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
    log.info("draining")
    draining.active = True
    await public.drain(drain_s)
    public.should_exit = private.should_exit = True
    await asyncio.gather(*tasks)
    log.info("stopped")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve an MLflow model over the Open Inference Protocol.")
    parser.add_argument("--name", required=True)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--private-port", required=True, type=int)
    parser.add_argument("--drain", type=float, default=KEEP_ALIVE_S + 1.0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(options.name, options.model, options.private_port, options.drain))


if __name__ == "__main__":
    main()
