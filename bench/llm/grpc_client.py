"""A client of the predictor's own gRPC service, for the predictor that stands alone and so has no HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc
import grpc.aio

from bench.llm.answer import BadAnswer, Part, Usage
from bench.llm.openai_client import TIMEOUT_S
from mesh.channel import open_channel
from mesh.v1 import language_model_pb2 as lm
from mesh.v1 import language_model_pb2_grpc as lm_grpc


class GrpcClient:
    """Implements Client over one channel, as a gateway would."""

    def __init__(self, address: str, model: str) -> None:
        self._channel = open_channel(address)
        self._stub = lm_grpc.LanguageModelStub(self._channel)
        self._model = model

    async def complete(self, prompt: str, max_tokens: int) -> AsyncGenerator[Part, None]:
        sampling = lm.SamplingParameters(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        request = lm.GenerateRequest(model_name=self._model, text=prompt, sampling=sampling)
        call = self._stub.Generate(request, timeout=TIMEOUT_S)
        try:
            async for message in call:
                yield part_of(message)
        except grpc.aio.AioRpcError as error:
            raise BadAnswer(f"{error.code().name}: {error.details()}") from error
        finally:
            call.cancel()

    async def close(self) -> None:
        await self._channel.close()


def part_of(message: lm.GenerateResponse) -> Part:
    """What one message of the stream holds."""
    usage = message.usage if message.HasField("usage") else None
    return Part(bool(message.text), Usage(usage.prompt_tokens, usage.output_tokens) if usage else None)
