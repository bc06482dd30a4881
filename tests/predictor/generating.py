"""Asks the SmolLM2 of a running predictor, and reads its answers and its metrics."""

from __future__ import annotations

import asyncio
import urllib.request

import grpc.aio

from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from tests.predictor.running import RunningPredictor

PROMPT = "The capital of France is"


def generation(text: str = PROMPT, **sampling: object) -> lm.GenerateRequest:
    """Greedy, eight tokens, unless `sampling` says otherwise."""
    parameters = lm.SamplingParameters(**{"temperature": 0, "max_tokens": 8, **sampling})  # type: ignore[arg-type]
    return lm.GenerateRequest(model_name="smollm2", text=text, sampling=parameters)


async def generate(channel: grpc.aio.Channel, request: lm.GenerateRequest) -> list[lm.GenerateResponse]:
    return [response async for response in LanguageModelStub(channel).Generate(request)]


def text_of(responses: list[lm.GenerateResponse], index: int = 0) -> str:
    return "".join(response.text for response in responses if response.index == index)


def tokens_of(responses: list[lm.GenerateResponse], index: int = 0) -> list[int]:
    return [token_id for response in responses if response.index == index for token_id in response.token_ids]


async def metric(predictor: RunningPredictor, name: str) -> float:
    """The sum of a metric over its labels."""
    url = f"http://{predictor.addresses['metrics_address']}/metrics"
    text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))
