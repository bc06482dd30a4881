"""The only place where gRPC servers are made: health, reflection, interceptors, metrics, and a graceful end.

SIGTERM means: NOT_SERVING at once, and a word to all callers in the mesh; wait `drain_s` so that balancers notice,
finish what runs within `grace_s`, then close what the service owns, in reverse order.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from mesh import tracing
from mesh.errors import MeshError, Unavailable
from mesh.interceptors import handler_table
from mesh.load_meter import LoadMeter
from mesh.logs import get_logger
from mesh.metrics import Heartbeat, OpsServer, RpcMetrics
from mesh.multiplex.servicer import MultiplexServicer
from mesh.settings import ServiceSettings
from mesh.v1 import multiplex_pb2_grpc

log = get_logger(__name__)

# Python's own number is 700, which a few dozen requests in flight exceed at every turn of the event loop.
_YOUNG_OBJECTS = 20_000

AsyncCallback = Callable[[], Awaitable[None]]


class PortTaken(Unavailable):
    """Another process listens on the port."""


class _HealthServicer(health_aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """gRPC's own, but for its Watch streams: they would hold up the server's end for the whole grace time."""

    def __init__(self) -> None:
        super().__init__()
        self._ended = asyncio.Event()

    def end_watches(self) -> None:
        """End all Watch streams, those to come as well."""
        self._ended.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        watching = asyncio.ensure_future(super().Watch(request, context))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({watching, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            ended.cancel()
            await asyncio.gather(watching, return_exceptions=True)


class Health:
    """The standard health service: "" for the process, one name per service and per model."""

    def __init__(self) -> None:
        self.servicer = _HealthServicer()

    async def set(self, name: str, serving: bool) -> None:
        """Say whether `name` is served; watchers are told at once."""
        status = health_pb2.HealthCheckResponse.ServingStatus
        await self.servicer.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def drain(self) -> None:
        """NOT_SERVING for all names, for good."""
        await self.servicer.enter_graceful_shutdown()

    def end_watches(self) -> None:
        """End the streams of all watchers, who have been told by now."""
        self.servicer.end_watches()


def advertised_host(settings: ServiceSettings) -> str:
    """The host that others reach this service by: a wildcard address tells them nothing, this machine's name does."""
    is_wildcard = settings.host in ("0.0.0.0", "::", "[::]")
    return settings.advertise_host or (socket.gethostname() if is_wildcard else settings.host)


def server_options(max_message_bytes: int) -> list[tuple[str, int]]:
    """Channel arguments of every server, each with its reason."""
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # Two processes on one port would share its connections by chance; a taken port must be an error.
        ("grpc.so_reuseport", 0),
        # Clients may ping as often as our own channels do; the default answers GOAWAY below five minutes.
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


class MeshServer:
    """A gRPC server with everything that each service of the mesh has."""

    def __init__(self, settings: ServiceSettings, *, name: str) -> None:
        self.name = name
        self.health = Health()
        self.metrics_registry = CollectorRegistry()
        self.http_address: str | None = None
        self._settings = settings
        self._flush_traces = tracing.configure(name, settings.otlp_endpoint, settings.trace_file)
        self._heartbeat = Heartbeat()
        self._ops = OpsServer(self.metrics_registry, self._heartbeat.is_alive)
        self._service_names: list[str] = []
        self._on_drain: list[AsyncCallback] = []
        self._on_close: list[AsyncCallback] = []
        self._stopping = asyncio.Event()
        self._port = 0
        self.load = LoadMeter()
        self._handlers = handler_table(RpcMetrics(self.metrics_registry), self.load)
        self._multiplex = MultiplexServicer(self._handlers.find, settings.max_concurrent_rpcs, self.load)
        self.grpc = grpc.aio.server(
            options=server_options(settings.max_message_bytes),
            maximum_concurrent_rpcs=settings.max_concurrent_rpcs,
        )
        self.grpc.add_generic_rpc_handlers((self._handlers,))
        self._register(health_pb2_grpc.add_HealthServicer_to_server, self.health.servicer)
        self._register(multiplex_pb2_grpc.add_MultiplexServiceServicer_to_server, self._multiplex)

    def add(self, register: Callable[[Any, grpc.aio.Server], None], servicer: object, service_name: str) -> None:
        """Serve `servicer`, multiplexed as well; `service_name` ("package.Service") goes into reflection and health."""
        self._register(register, servicer)
        self.declare(service_name)

    def add_generic(self, *handlers: grpc.GenericRpcHandler) -> None:
        """Serve what `handlers` have, the first that has a method. `declare` names their services."""
        self._handlers.add_generic_rpc_handlers(handlers)

    def _register(self, register: Callable[[Any, grpc.aio.Server], None], servicer: object) -> None:
        register(servicer, cast("grpc.aio.Server", self._handlers))

    def declare(self, service_name: str) -> None:
        """Name a service that a generic handler serves, for reflection and health."""
        self._service_names.append(service_name)

    def on_drain(self, callback: AsyncCallback) -> None:
        """Run when SIGTERM comes, before the drain time: withdraw the lease."""
        self._on_drain.append(callback)

    def on_close(self, callback: AsyncCallback) -> None:
        """Run after the last RPC ended; callbacks run in reverse order of their adding."""
        self._on_close.append(callback)

    @property
    def address(self) -> str:
        """host:port that others reach the gRPC server by. Valid after start()."""
        return f"{self._advertised_host}:{self._port}"

    @property
    def metrics_address(self) -> str:
        """host:port of /metrics. Valid after start()."""
        return f"{self._advertised_host}:{self._ops.port}"

    @property
    def _advertised_host(self) -> str:
        return advertised_host(self._settings)

    async def start(self) -> None:
        """Bind both ports, answer, and announce the addresses. Raises PortTaken."""
        settings = self._settings
        names = (*self._service_names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflecting = reflection.aio.ReflectionServicer((*names, reflection.SERVICE_NAME))
        self._register(reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflecting)
        try:
            self._port = self.grpc.add_insecure_port(f"{settings.host}:{settings.grpc_port}")
        except RuntimeError:
            raise _port_taken(self.name, "grpc_port", settings.host, settings.grpc_port) from None
        try:
            self._ops.start(settings.host, settings.metrics_port)
        except OSError:
            raise _port_taken(self.name, "metrics_port", settings.host, settings.metrics_port) from None
        await self.grpc.start()
        for service_name in ("", *self._service_names):
            await self.health.set(service_name, True)

    def announce(self) -> None:
        """Say where the service listens: in the log, and in the ready file when one is set."""
        addresses = {"grpc_address": self.address, "metrics_address": self.metrics_address}
        if self.http_address is not None:
            addresses["http_address"] = self.http_address
        log.info("listening", **addresses)
        if self._settings.ready_file is not None:
            record = {"service": self.name, "pid": os.getpid(), **addresses}
            _write_whole(self._settings.ready_file, json.dumps(record))

    def request_stop(self) -> None:
        """What SIGTERM does."""
        self._stopping.set()

    async def serve_until_terminated(self) -> None:
        """Announce, serve until SIGTERM or SIGINT, then end as the module's docstring says."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self.request_stop)
        self.announce()
        spare_garbage_collection()
        beating = asyncio.create_task(self._beat())
        try:
            await self._stopping.wait()
            log.info("draining", drain_s=self._settings.drain_s, grace_s=self._settings.grace_s)
            # Before the callbacks: one that withdraws a lease waits for a registry that may be gone.
            self._multiplex.begin_drain()
            await self.health.drain()
            for callback in self._on_drain:
                await callback()
            await asyncio.sleep(self._settings.drain_s)
        finally:
            await self.close()
            beating.cancel()

    async def close(self) -> None:
        """Finish running RPCs within the grace time, then close what the service owns."""
        self.health.end_watches()
        self._multiplex.end()
        await self.grpc.stop(self._settings.grace_s)
        for callback in reversed(self._on_close):
            await callback()
        self._ops.stop()
        await asyncio.to_thread(self._flush_traces)
        log.info("stopped")

    async def _beat(self) -> None:
        while True:
            self._heartbeat.beat()
            await asyncio.sleep(1.0)


def spare_garbage_collection() -> None:
    """Have the collector look at requests only, and less often: for a process whose start is over.

    What the start left, tens of thousands of objects, is looked through again and again and never freed: 75 ms for each
    full collection, 4 % of the time under a load of small requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run a service's main coroutine on uvloop; returns the exit status. A MeshError is one sentence on stderr."""
    try:
        uvloop.run(main())
    except MeshError as error:
        log.error("service_failed", error=error.message)
        print(error.message, file=sys.stderr)  # noqa: T201 -- the person who started it reads this
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _port_taken(service: str, field: str, host: str, port: int) -> PortTaken:
    flag = field.replace("_", "-")
    return PortTaken(
        f"{service}: cannot listen on {host}:{port} (--{flag}): another process has the port, or the address is not "
        f"this machine's; set --{flag} to a free port, or to 0 to pick one",
        field=field,
    )


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
