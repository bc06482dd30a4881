"""The ASGI application, and the HTTP server that runs it on the event loop of the gRPC server.

uvicorn does the serving; here it is bound to a socket of ours (so that a taken port is our own clear error), keeps its
hands off the signals, and ends gracefully: no new connections, running responses to their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp

from gateway.dataplane import Dataplane
from gateway.edge import Edge
from gateway.exchange import Recorder
from gateway.repository import RepositoryControl
from gateway.router import Router
from gateway.routes import build_routes
from gateway.settings import GatewaySettings
from mesh.errors import Unavailable
from mesh.serve import PortTaken, advertised_host

_BACKLOG = 2048
_DATE_INTERVAL_S = 1.0


def build_app(
    settings: GatewaySettings, dataplane: Dataplane, repository: RepositoryControl, recorder: Recorder
) -> ASGIApp:
    """Every route, inside the edge."""
    return Edge(
        Router(build_routes(dataplane, repository)),
        recorder=recorder,
        max_body_bytes=settings.max_body_bytes,
        compress_min_bytes=settings.compress_min_bytes,
        body_timeout_s=settings.body_timeout_s,
        request_timeout_s=settings.request_timeout_s,
        max_concurrent_requests=settings.max_concurrent_requests,
    )


class HttpServer:
    """Serves `app` on the running event loop between start() and stop()."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._settings = settings
        self._server = _Server(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=settings.keep_alive_s,
                timeout_graceful_shutdown=max(1, round(settings.grace_s)),
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self._port = 0

    @property
    def address(self) -> str:
        """host:port that clients use. Valid after start()."""
        return f"{advertised_host(self._settings)}:{self._port}"

    async def start(self) -> None:
        """Bind and answer. Raises PortTaken."""
        listener = self._bind()
        self._port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({ready, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            ready.cancel()
            self._serving.result()
            raise Unavailable("gateway: the HTTP server ended while it started")

    async def stop(self) -> None:
        """Accept no more connections; return when the running responses have ended, or the grace time has."""
        if self._serving is not None:
            self._server.end()
            await self._serving

    def _bind(self) -> socket.socket:
        host, port = self._settings.host, self._settings.http_port
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, kind, protocol)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise PortTaken(
                f"gateway: cannot listen on {host}:{port} (--http-port): {error.strerror or error}; set --http-port to "
                "a free port, or to 0 to pick one",
                field="http_port",
            ) from None
        listener.setblocking(False)
        return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Begin to shut down."""
        self.should_exit = True
        self._ended.set()

    async def main_loop(self) -> None:
        # uvicorn's own looks ten times a second whether it shall end. All that needs a clock is the date header.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _DATE_INTERVAL_S)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # The gRPC server's end is this one's as well: mesh.serve listens to the signals.
        yield
