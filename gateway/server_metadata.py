"""What the gateway says of itself over OIP, the same by HTTP and by gRPC."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from mesh.oip import open_inference_pb2 as oip

EXTENSIONS = ("model_repository", "model_configuration", "statistics", "generate", "model_stream_infer")


def server_metadata() -> oip.ServerMetadataResponse:
    """Name, version of the distribution, and the extensions that are served."""
    try:
        installed = version("meshserve")
    except PackageNotFoundError:
        installed = "unknown"  # run from a source tree that is not installed
    return oip.ServerMetadataResponse(name="meshserve", version=installed, extensions=EXTENSIONS)
