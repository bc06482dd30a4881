"""Starts the transformer: the one place where its parts are built and joined."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid

from mesh import logs, model_index
from mesh.announce import Announcer
from mesh.discovery import Discovery
from mesh.model_health import ModelHealth
from mesh.model_index import ModelIndex
from mesh.pool import EndpointPool
from mesh.serve import MeshServer, run
from mesh.settings import load_settings, redacted
from mesh.v1.explain_pb2_grpc import add_ExplainServiceServicer_to_server
from mesh.v1.language_model_pb2_grpc import add_LanguageModelServicer_to_server
from mesh.v1.registry_pb2 import SERVICE_KIND_TRANSFORMER, Replica
from mesh.version import software_version
from transformer.descriptions import Descriptions
from transformer.infer_proxy import InferProxy, add_InferProxy_to_server
from transformer.metrics import TransformerMetrics
from transformer.next_hops import NextHops
from transformer.pipeline import Pipeline
from transformer.prompts import Prompts
from transformer.servicer import TransformerExplainService, TransformerLanguageModel
from transformer.settings import TransformerSettings
from transformer.steps.prompt import StepServices
from transformer.template_runner import TemplateLimits, TemplateRunnerPool

log = logs.get_logger(__name__)


async def serve(settings: TransformerSettings) -> None:
    """Run the service until it is told to end."""
    server = MeshServer(settings, name="transformer")
    discovery = Discovery(registry=settings.registry, endpoints=settings.endpoints, state_dir=settings.state_dir)
    pool = EndpointPool(
        lambda: discovery.view,
        policy=settings.balancing,
        limits=settings.call_limits,
        metrics_registry=server.metrics_registry,
    )
    templates = TemplateRunnerPool(
        TemplateLimits(settings.template_cpu_s, settings.template_memory_bytes, settings.max_prompt_chars),
        num_workers=settings.template_workers,
        max_waiting=settings.template_queue,
    )
    next_hops = NextHops(pool, settings.request_timeout_s)
    descriptions = Descriptions(next_hops.describe)
    steps = StepServices(templates=templates, wall_time_s=time.time)
    prompts = Prompts(descriptions, steps, TransformerMetrics(server.metrics_registry))
    pipeline = Pipeline(next_hops, prompts, descriptions)
    health = ModelHealth(lambda: discovery.view, server.health.set)
    draining = asyncio.Event()
    index = ModelIndex(
        "transformer",
        view=lambda: discovery.view,
        version=software_version(),
        extensions=("model_repository", "model_configuration", "statistics", "streaming"),
        is_ready=lambda: not draining.is_set(),
    )

    server.add(add_LanguageModelServicer_to_server, TransformerLanguageModel(pipeline), "mesh.v1.LanguageModel")
    server.add(add_ExplainServiceServicer_to_server, TransformerExplainService(pipeline), "mesh.v1.ExplainService")
    server.add(add_InferProxy_to_server, InferProxy(next_hops, index), model_index.SERVICE)

    async def begin_drain() -> None:
        draining.set()

    server.on_drain(begin_drain)
    for release in (discovery.close, pool.close, templates.close, health.close):
        server.on_close(release)
    discovery.on_change(health.notice)
    discovery.on_change(pool.notice)
    await discovery.start()
    await templates.start()
    await server.start()
    health.start()
    await _announce(server, settings)
    await server.serve_until_terminated()


async def _announce(server: MeshServer, settings: TransformerSettings) -> None:
    if settings.registry is None:
        return
    replica = Replica(
        id=f"transformer-{uuid.uuid4().hex}",
        kind=SERVICE_KIND_TRANSFORMER,
        address=server.address,
        metrics_address=server.metrics_address,
    )
    announcer = Announcer(settings.registry, replica, settings.lease_s)
    server.on_drain(announcer.withdraw)
    await announcer.start()


def main() -> int:
    """Entry point of `python -m transformer`."""
    settings = load_settings(TransformerSettings, prog="transformer")
    logs.configure("transformer", settings.log_level, settings.log_format)
    log.info("starting", settings=redacted(settings))
    return run(lambda: serve(settings))


if __name__ == "__main__":
    sys.exit(main())
