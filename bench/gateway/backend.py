"""What stands behind a hop: ready answers to unary calls, and tokens at the pace of an engine.

`python -m bench.gateway.backend mesh FLAG…` is a service of the mesh, with all that the gateway finds at a predictor;
`… bare PORT` gives the same bytes from gRPC's asyncio server alone. All streams get their tokens in the same moment, as
of an engine's step, and each token says when that was.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
import uvloop

from bench.oip.message import MODEL, MODEL_INFER, SMALL
from mesh import logs
from mesh.serve import MeshServer, run
from mesh.settings import ServiceSettings, load_settings
from mesh.v1 import language_model_pb2 as lm

GENERATE = "/mesh.v1.LanguageModel/Generate"
# SmolLM2-135M takes so long for a token of one request on two cores.
STEP_S = 0.005
_TOKEN_ID = 4711
_START = lm.GenerateResponse(
    start=lm.GenerationStart(model_name=MODEL, model_version="1", replica="bench", seed=1, prompt_tokens=20)
).SerializeToString()


class Steps:
    """The engine: a step each STEP_S seconds while somebody waits for it."""

    def __init__(self) -> None:
        self._step: asyncio.Future[float] | None = None
        self._due = 0.0

    def next_step(self) -> asyncio.Future[float]:
        """When the next step is made, on the clock time.monotonic; the same for all who wait."""
        if self._step is None:
            loop = asyncio.get_running_loop()
            self._step = loop.create_future()
            # At the engine's pace, however long the messages of the step before took.
            self._due = max(self._due, loop.time()) + STEP_S
            loop.call_at(self._due, self._end_step)
        return self._step

    def _end_step(self) -> None:
        step, self._step = self._step, None
        if step is not None:
            step.set_result(time.monotonic())


def said_at_s(message: bytes) -> float | None:
    """When the message's token was made, on the clock time.monotonic, which all processes of a machine share.

    None for a message without one.
    """
    response = lm.GenerateResponse.FromString(message)
    return float(response.text) if response.token_ids else None


async def generate(request: bytes, steps: Steps) -> AsyncIterator[bytes]:
    """What a predictor says: how it begins, then each token with the moment in which it was made as its text."""
    num_tokens = lm.GenerateRequest.FromString(request).sampling.max_tokens
    yield _START
    for number in range(1, num_tokens + 1):
        response = lm.GenerateResponse(text=f"{await steps.next_step():.6f}", token_ids=[_TOKEN_ID])
        if number == num_tokens:
            response.finish_reason = lm.FINISH_REASON_LENGTH
            response.usage.output_tokens = num_tokens
        yield response.SerializeToString()


class Handlers(grpc.GenericRpcHandler):
    """Unary calls and generations, from bytes to bytes. on_unary, on_generate: as a gRPC server calls them."""

    def __init__(self, on_unary: Callable[..., Any], on_generate: Callable[..., Any]) -> None:
        self._handlers: dict[str, Any] = {
            MODEL_INFER: grpc.unary_unary_rpc_method_handler(on_unary),
            GENERATE: grpc.unary_stream_rpc_method_handler(on_generate),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # Any: as the base class has it
        return self._handlers.get(handler_call_details.method)


def handlers() -> Handlers:
    steps = Steps()

    async def infer(_request: bytes, _context: object) -> bytes:
        return SMALL.response

    # gRPC takes a function for a stream only when it is an asynchronous generator itself.
    async def on_generate(request: bytes, _context: object) -> AsyncIterator[bytes]:
        async for message in generate(request, steps):
            yield message

    return Handlers(infer, on_generate)


async def serve_bare(generic_handlers: grpc.GenericRpcHandler, port: int) -> None:
    """Serve with gRPC's asyncio server and nothing else, until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((generic_handlers,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def serve_mesh(settings: ServiceSettings) -> None:
    """Serve as every service of the mesh does."""
    server = MeshServer(settings, name="predictor")
    server.add_generic(handlers())
    await server.start()
    await server.serve_until_terminated()


def main() -> int:
    kind, *rest = sys.argv[1:]
    if kind == "bare":

        async def serve() -> None:
            await serve_bare(handlers(), int(rest[0]))

        uvloop.run(serve())
        return 0
    settings = load_settings(ServiceSettings, prog="predictor", argv=rest)
    logs.configure("predictor", settings.log_level, settings.log_format)
    return run(lambda: serve_mesh(settings))


if __name__ == "__main__":
    sys.exit(main())
