"""Starts the explainer: the one place where its parts are built and joined."""

from __future__ import annotations

import asyncio
import sys
import uuid

from explainer.explanations import Explanations
from explainer.metrics import ExplainerMetrics
from explainer.predict_fn import BatchLimits
from explainer.servicer import ExplainerServicer
from explainer.settings import ExplainerSettings
from mesh import logs, model_index
from mesh.announce import Announcer
from mesh.discovery import Discovery
from mesh.model_health import ModelHealth
from mesh.model_index import ModelIndex, add_ModelIndex_to_server
from mesh.pool import EndpointPool
from mesh.serve import MeshServer, run
from mesh.settings import load_settings, redacted
from mesh.v1.explain_pb2_grpc import add_ExplainServiceServicer_to_server
from mesh.v1.registry_pb2 import SERVICE_KIND_EXPLAINER, Replica
from mesh.version import software_version

log = logs.get_logger(__name__)


async def serve(settings: ExplainerSettings) -> None:
    """Run the service until it is told to end."""
    server = MeshServer(settings, name="explainer")
    discovery = Discovery(registry=settings.registry, endpoints=settings.endpoints, state_dir=settings.state_dir)
    pool = EndpointPool(
        lambda: discovery.view,
        policy=settings.balancing,
        limits=settings.call_limits,
        metrics_registry=server.metrics_registry,
    )
    explanations = Explanations(
        pool,
        BatchLimits(
            max_rows=settings.max_rows_per_call,
            max_prompts=settings.max_prompts_per_call,
            timeout_s=settings.request_timeout_s,
        ),
        ExplainerMetrics(server.metrics_registry),
        max_running=settings.max_explanations,
        seed=settings.seed,
    )
    health = ModelHealth(lambda: discovery.view, server.health.set)
    draining = asyncio.Event()
    index = ModelIndex(
        "explainer",
        view=lambda: discovery.view,
        version=software_version(),
        is_ready=lambda: not draining.is_set(),
    )

    async def begin_drain() -> None:
        draining.set()

    server.add(add_ExplainServiceServicer_to_server, ExplainerServicer(explanations), "mesh.v1.ExplainService")
    server.add(add_ModelIndex_to_server, index, model_index.SERVICE)
    server.on_drain(begin_drain)
    server.on_close(discovery.close)
    server.on_close(pool.close)
    server.on_close(health.close)
    discovery.on_change(health.notice)
    discovery.on_change(pool.notice)
    await discovery.start()
    await server.start()
    health.start()
    await _announce(server, settings)
    await server.serve_until_terminated()


async def _announce(server: MeshServer, settings: ExplainerSettings) -> None:
    if settings.registry is None:
        return
    replica = Replica(
        id=f"explainer-{uuid.uuid4().hex}",
        kind=SERVICE_KIND_EXPLAINER,
        address=server.address,
        metrics_address=server.metrics_address,
    )
    announcer = Announcer(settings.registry, replica, settings.lease_s)
    server.on_drain(announcer.withdraw)
    await announcer.start()


def main() -> int:
    """Entry point of `python -m explainer`."""
    settings = load_settings(ExplainerSettings, prog="explainer")
    logs.configure("explainer", settings.log_level, settings.log_format)
    log.info("starting", settings=redacted(settings))
    return run(lambda: serve(settings))


if __name__ == "__main__":
    sys.exit(main())
