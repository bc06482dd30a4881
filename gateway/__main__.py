"""Starts the gateway: the one place where its parts are built and joined."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from gateway.app import HttpServer, build_app
from gateway.dataplane import Dataplane
from gateway.exchange import Exchange, Recorder
from gateway.metrics import GatewayMetrics
from gateway.mirror import Mirror, mirror_file
from gateway.passthrough import LANGUAGE_MODEL_SERVICE, OIP_SERVICE, PassThrough
from gateway.prediction_log import PredictionLog
from gateway.prediction_record import record_of
from gateway.repository import RepositoryControl
from gateway.request_log import RequestLog
from gateway.servicer import GatewayExplainService, OipHandlers
from gateway.settings import GatewaySettings
from mesh import logs
from mesh.discovery import Discovery
from mesh.model_health import ModelHealth
from mesh.pool import EndpointPool
from mesh.serve import MeshServer, run
from mesh.settings import load_settings, redacted
from mesh.v1.explain_pb2_grpc import add_ExplainServiceServicer_to_server
from mesh.view import MeshView

log = logs.get_logger(__name__)


class Gateway:
    """The parts of one gateway. `server` says when it ends; `http.address` is the HTTP front's."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self.server = MeshServer(settings, name="gateway")
        self._discovery = Discovery(
            registry=settings.registry, endpoints=settings.endpoints, state_dir=settings.state_dir
        )
        self._pool = EndpointPool(
            lambda: self.view,
            policy=settings.balancing,
            limits=settings.call_limits,
            metrics_registry=self.server.metrics_registry,
        )
        self._mirror = self._build_mirror()
        self._dataplane = Dataplane(
            self._pool, lambda: self.view, request_timeout_s=settings.request_timeout_s, mirror=self._mirror
        )
        self._repository = RepositoryControl(lambda: self.view, request_timeout_s=settings.request_timeout_s)
        self._recorder = self._build_recorder()
        self._health = ModelHealth(lambda: self.view, self.server.health.set)
        self.http = HttpServer(build_app(settings, self._dataplane, self._repository, self._recorder), settings)
        self._http_end: asyncio.Task[None] | None = None

    @property
    def view(self) -> MeshView:
        """What the gateway knows of the mesh now."""
        return self._discovery.view

    async def start(self) -> None:
        """Learn of the mesh, then answer on all ports. Raises PortTaken, and InvalidInput for a wrong file."""
        self._add_grpc_services()
        self.server.on_drain(self._begin_drain)
        for release in (
            self._mirror.close,
            self._pool.close,
            self._discovery.close,
            self._health.close,
            self._end_http,
        ):
            self.server.on_close(release)
        await self._discovery.start()
        self._mirror.start()
        await self.server.start()
        await self.http.start()
        self.server.http_address = self.http.address
        self._discovery.on_change(self._health.notice)
        self._discovery.on_change(self._pool.notice)
        self._health.start()

    def _build_mirror(self) -> Mirror:
        settings = self._settings
        files = settings.prediction_log_max_bytes, settings.prediction_log_max_files
        return Mirror(
            lambda: self.view,
            self.server.metrics_registry,
            balancing=settings.balancing,
            file=mirror_file(settings.prediction_log_path, *files) if settings.prediction_log else None,
            max_queued=settings.mirror_max_queued,
            max_queued_bytes=settings.mirror_max_queued_bytes,
            concurrency=settings.mirror_concurrency,
            timeout_s=settings.mirror_timeout_s,
        )

    def _build_recorder(self) -> Recorder:
        settings, registry = self._settings, self.server.metrics_registry
        sinks: list[Callable[[Exchange], None]] = [RequestLog().submit]
        recorder = Recorder(sinks, max_payload_bytes=settings.prediction_log_payload_bytes)
        sinks.append(GatewayMetrics(registry, lambda: recorder.in_flight).observe)
        if settings.prediction_log:
            prediction_log = PredictionLog(
                settings.prediction_log_path,
                record_of,
                registry,
                max_file_bytes=settings.prediction_log_max_bytes,
                max_files=settings.prediction_log_max_files,
            )
            sinks.append(prediction_log.submit)
            self.server.on_close(lambda: asyncio.to_thread(prediction_log.close))
        return recorder

    def _add_grpc_services(self) -> None:
        # The pass-through stands first: it takes what it can without parsing, and leaves the rest to the others.
        self.server.add_generic(
            PassThrough(self._dataplane, self._recorder),
            OipHandlers(self._dataplane, self._repository, self._recorder),
        )
        self.server.declare(OIP_SERVICE)
        self.server.declare(LANGUAGE_MODEL_SERVICE)
        self.server.add(
            add_ExplainServiceServicer_to_server,
            GatewayExplainService(self._dataplane, self._recorder),
            "mesh.v1.ExplainService",
        )

    async def _begin_drain(self) -> None:
        """Not ready from now on; HTTP ends when gRPC does, each finishing what it runs."""
        self._dataplane.is_draining = True

        async def end_http() -> None:
            await asyncio.sleep(self._settings.drain_s)
            await self.http.stop()

        self._http_end = asyncio.create_task(end_http())

    async def _end_http(self) -> None:
        await (self._http_end if self._http_end is not None else self.http.stop())


async def serve(settings: GatewaySettings) -> None:
    """Run the service until it is told to end."""
    gateway = Gateway(settings)
    try:
        await gateway.start()
    except BaseException:
        # Half of it runs: a taken HTTP port is noticed after the gRPC one was bound.
        await gateway.server.close()
        raise
    await gateway.server.serve_until_terminated()


def main() -> int:
    """Entry point of `python -m gateway`."""
    settings = load_settings(GatewaySettings, prog="gateway")
    logs.configure("gateway", settings.log_level, settings.log_format)
    log.info("starting", settings=redacted(settings))
    return run(lambda: serve(settings))


if __name__ == "__main__":
    sys.exit(main())
