"""`python -m predictor`: reads the settings, puts the predictor together, and runs it until SIGTERM.

Start order: bind the ports (a taken one ends the start at once), announce, then load the models while the first of
them may answer already. Failing models are reported, not fatal.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import PackageNotFoundError, version

from mesh import logs
from mesh.logs import get_logger
from mesh.oip import open_inference_pb2_grpc as oip_grpc
from mesh.serve import MeshServer, run
from mesh.settings import load_settings, redacted
from predictor.deployed import deployed_models
from predictor.loader import ModelLoader
from predictor.repository import ModelRepository
from predictor.runtimes import RUNTIMES
from predictor.servicer import OpenInferenceServicer
from predictor.settings import PredictorSettings

log = get_logger(__name__)


def main() -> int:
    settings = load_settings(PredictorSettings, prog="predictor")
    logs.configure("predictor", settings.log_level, settings.log_format)
    log.info("starting", settings=redacted(settings))
    return run(lambda: serve(settings))


async def serve(settings: PredictorSettings) -> None:
    """Serve until SIGTERM. Raises MeshError when the start fails: a port is taken, or the deployments are wrong."""
    specs = deployed_models(settings.deployments, settings.model)
    server = MeshServer(settings, name="predictor")
    repository = ModelRepository(
        specs,
        ModelLoader(settings.cache_dir.expanduser(), RUNTIMES),
        server.health.set,
        unload_timeout_s=settings.unload_timeout_s,
    )
    server.add(
        oip_grpc.add_GRPCInferenceServiceServicer_to_server,
        OpenInferenceServicer(repository, _software_version()),
        "inference.GRPCInferenceService",
    )
    server.on_close(repository.close)
    await server.start()
    loading = asyncio.create_task(repository.load_all())
    try:
        await server.serve_until_terminated()
    finally:
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)


def _software_version() -> str:
    try:
        return version("meshserve")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0"


if __name__ == "__main__":
    sys.exit(main())
