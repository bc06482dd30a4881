"""What Triton's HTTP clients ask beyond the protocol, and what they get here: a plain answer that it is not offered.

Shared memory, trace and log settings; as over gRPC (predictor/servicer.py).
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from gateway.rest.bodies import json_response
from mesh.errors import NotFound, Unsupported


class TritonRoutes:
    """Handlers of /v2/{system,cuda}sharedmemory, /v2/trace and /v2/logging."""

    async def shared_memory_status(self, request: Request) -> Response:
        """GET …/status: no region is registered."""
        if "region" in request.path_params:
            raise NotFound("no shared memory region is registered: shared memory is not offered")
        return json_response([])

    async def shared_memory(self, _request: Request) -> Response:
        """POST …/register and …/unregister"""
        raise Unsupported("shared memory is not offered; send tensors in the request")

    async def trace_settings(self, _request: Request) -> Response:
        """GET and POST …/trace/setting"""
        raise Unsupported("trace settings cannot be changed here: traces are OpenTelemetry's, set at the start")

    async def log_settings(self, _request: Request) -> Response:
        """GET and POST /v2/logging"""
        raise Unsupported("log settings cannot be changed here: they are set at the start")
