"""`python -m registry`: reads the settings, puts the registry together, and runs it until SIGTERM."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from datetime import UTC, datetime

from mesh import logs
from mesh.deployments import read_deployments
from mesh.logs import get_logger
from mesh.model_health import ModelHealth
from mesh.model_index import SERVICE as OPEN_INFERENCE
from mesh.model_index import ModelIndex, add_ModelIndex_to_server
from mesh.serve import MeshServer, run
from mesh.settings import load_settings, redacted
from mesh.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server
from mesh.version import software_version
from registry.catalog import Catalog
from registry.control import ControlPlane, deployment_of
from registry.database import Database
from registry.leases import Leases
from registry.metrics import register_metrics
from registry.servicer import RegistryServicer
from registry.settings import RegistrySettings
from registry.watch import WatchLog

log = get_logger(__name__)


def main() -> int:
    """Entry point of `python -m registry`."""
    settings = load_settings(RegistrySettings, prog="registry")
    logs.configure("registry", settings.log_level, settings.log_format)
    log.info("starting", settings=redacted(settings))
    return run(lambda: serve(settings))


async def serve(settings: RegistrySettings) -> None:
    """Serve until SIGTERM. Raises MeshError when the start fails: port, database or deployments file."""
    seed = read_deployments(settings.deployments) if settings.deployments is not None else []
    server = MeshServer(settings, name="registry")
    database = await asyncio.to_thread(Database, settings.database_url)
    catalog = Catalog(database, lambda: datetime.now(UTC))
    known = [deployment_of(record) for record in await asyncio.to_thread(catalog.deployments)]
    # Leases and revisions do not outlive the process, so every start is an epoch of its own.
    watch_log = WatchLog(uuid.uuid4().hex, known, settings.history_events, settings.max_watchers)
    leases = Leases(time.monotonic, settings.lease_s)
    control = ControlPlane(catalog, watch_log, leases)
    health = ModelHealth(lambda: control.view, server.health.set)
    watch_log.on_change(health.notice)
    index = ModelIndex("registry", view=lambda: control.view, version=software_version())

    register_metrics(server.metrics_registry, watch_log, leases)
    server.add(add_RegistryServiceServicer_to_server, RegistryServicer(catalog, control), "mesh.v1.RegistryService")
    server.add(add_ModelIndex_to_server, index, OPEN_INFERENCE)

    async def close_database() -> None:
        await asyncio.to_thread(database.close)

    server.on_drain(control.end_watches)
    server.on_close(close_database)
    server.on_close(control.close)
    server.on_close(health.close)
    await control.start(seed)
    await server.start()
    health.start()
    await server.serve_until_terminated()


if __name__ == "__main__":
    sys.exit(main())
