"""What the gateway says of itself over OIP, the same by HTTP and by gRPC."""

from __future__ import annotations

from mesh.oip import open_inference_pb2 as oip
from mesh.version import software_version

EXTENSIONS = (
    "binary_tensor_data",
    "model_repository",
    "model_configuration",
    "statistics",
    "generate",
    "model_stream_infer",
)


def server_metadata() -> oip.ServerMetadataResponse:
    """Name, version of the distribution, and the extensions that are served."""
    return oip.ServerMetadataResponse(name="meshserve", version=software_version(), extensions=EXTENSIONS)
