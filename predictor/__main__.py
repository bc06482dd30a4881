"""`python -m predictor`: reads the settings, puts the predictor together, and runs it until SIGTERM.

The order of the start: bind the ports (a taken one ends it at once), make the replica known, then load all models at
the same time, unless a memory budget has them loaded on demand. A model answers as soon as it is loaded; one that fails
is reported and stops nothing.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Mapping

from mesh import logs
from mesh.announce import Announcer
from mesh.logs import LogSettings, get_logger
from mesh.serve import MeshServer, run
from mesh.settings import load_settings, redacted
from mesh.v1 import engine_debug_pb2_grpc as debug_grpc
from mesh.v1 import language_model_pb2_grpc as lm_grpc
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Replica
from mesh.version import software_version
from predictor.deployed import deployed_models
from predictor.engine_debug_servicer import EngineDebugServicer
from predictor.holdings import holdings_of
from predictor.language_model_servicer import LanguageModelServicer
from predictor.loader import ModelLoader
from predictor.metrics import ModelCollector
from predictor.presence import Presence
from predictor.repository import ModelRepository
from predictor.runtimes import RUNTIMES
from predictor.servicer import OpenInferenceServicer, add_open_inference_to_server
from predictor.settings import PredictorSettings

log = get_logger(__name__)


def main() -> int:
    settings = load_settings(PredictorSettings, prog="predictor")
    logs.configure("predictor", settings.log_level, settings.log_format)
    log.info("starting", settings=redacted(settings))
    return run(lambda: serve(settings))


async def serve(settings: PredictorSettings, runtimes: Mapping[str, str] = RUNTIMES) -> None:
    """Serve until SIGTERM. Raises MeshError when the start fails: a port is taken, or the deployments are wrong."""
    specs = deployed_models(settings.deployments, settings.model)
    server = MeshServer(settings, name="predictor")
    presence = Presence(server.health, specs)
    repository = ModelRepository(
        specs,
        ModelLoader(
            settings.cache_dir.expanduser(),
            runtimes,
            LogSettings(settings.log_level, settings.log_format),
            may_run_code=settings.trust_model_code,
        ),
        presence.model_changed,
        unload_timeout_s=settings.unload_timeout_s,
        memory_budget_bytes=settings.memory_budget_mb * 1024 * 1024,
        load_wait_s=settings.load_wait_s,
        max_waiting=settings.max_load_waiters,
    )
    _add_services(server, repository)

    async def drain() -> None:
        repository.drain()
        await presence.withdraw()

    server.on_drain(drain)
    server.on_close(repository.close)
    server.on_close(presence.withdraw)
    await server.start()
    if settings.registry is not None:
        await presence.announce(Announcer(settings.registry, _replica(server), settings.lease_s))
    loading = asyncio.create_task(repository.load_all())
    try:
        await server.serve_until_terminated()
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)


def _add_services(server: MeshServer, repository: ModelRepository) -> None:
    server.add(
        add_open_inference_to_server,
        OpenInferenceServicer(repository, software_version()),
        "inference.GRPCInferenceService",
    )
    server.add(
        lm_grpc.add_LanguageModelServicer_to_server,
        LanguageModelServicer(repository, lambda: server.address, server.load),
        "mesh.v1.LanguageModel",
    )
    server.add(debug_grpc.add_EngineDebugServicer_to_server, EngineDebugServicer(repository), "mesh.v1.EngineDebug")
    server.metrics_registry.register(ModelCollector(repository))
    server.load.ask(lambda: holdings_of(repository))


def _replica(server: MeshServer) -> Replica:
    return Replica(
        id=f"predictor-{uuid.uuid4().hex[:12]}",
        kind=SERVICE_KIND_PREDICTOR,
        address=server.address,
        metrics_address=server.metrics_address,
    )


if __name__ == "__main__":
    sys.exit(main())
