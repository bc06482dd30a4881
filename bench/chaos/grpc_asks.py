"""Requests of the mesh's own protocol and of the Open Inference Protocol, over gRPC, and what came as an Answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grpc.aio

from bench.chaos.answer import Answer, Failed, Growing, Output
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import decode_response
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub


async def generate(
    channel: grpc.aio.Channel, request: lm.GenerateRequest, timeout_s: float, heard: Callable[[], None]
) -> Answer:
    """The answer to a Generate; `heard` is called for each message. Raises Failed."""
    outputs: dict[int, Growing] = {}
    prompt: list[float] = []
    prompt_tokens = output_tokens = num_starts = 0
    try:
        async for response in LanguageModelStub(channel).Generate(request, timeout=timeout_s):
            heard()
            num_starts += response.HasField("start")
            output = outputs.setdefault(response.index, Growing())
            if output.finish_reason:
                raise Failed(f"output {response.index} goes on after its end")
            output.text += response.text
            output.token_ids += response.token_ids
            output.numbers += _numbers(response.logprobs)
            prompt += _numbers(response.prompt_logprobs)
            for call in response.tool_calls:
                output.add_call(call.index, call.name, call.arguments)
            if response.finish_reason != lm.FINISH_REASON_UNSPECIFIED:
                output.finish_reason = lm.FinishReason.Name(response.finish_reason) + response.matched_stop
                prompt_tokens = response.usage.prompt_tokens
                output_tokens += response.usage.output_tokens
    except grpc.aio.AioRpcError as error:
        raise _failed(error) from error
    if num_starts != 1 or not all(output.finish_reason for output in outputs.values()):
        raise Failed(f"the stream has {num_starts} starts, and {len(outputs)} outputs that did not all end")
    wholes = tuple(output.whole() for _, output in sorted(outputs.items()))
    return Answer((Growing(numbers=prompt).whole(), *wholes), prompt_tokens, output_tokens)


async def score(channel: grpc.aio.Channel, request: lm.ScoreRequest, timeout_s: float) -> Answer:
    """The answer to a Score. Raises Failed."""
    try:
        response = await LanguageModelStub(channel).Score(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise _failed(error) from error
    results = (Growing(token_ids=[*each.token_ids], numbers=[*each.logprobs]).whole() for each in response.results)
    return Answer(tuple(results), response.usage.prompt_tokens)


async def tokenize(channel: grpc.aio.Channel, request: lm.TokenizeRequest, timeout_s: float) -> Answer:
    """The answer to a Tokenize. Raises Failed."""
    try:
        response = await LanguageModelStub(channel).Tokenize(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise _failed(error) from error
    return Answer((Growing(token_ids=[*response.token_ids]).whole(),))


async def infer(channel: grpc.aio.Channel, request: oip.ModelInferRequest, timeout_s: float) -> Answer:
    """The answer to a ModelInfer, its tensors as bytes. Raises Failed."""
    try:
        response = await GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise _failed(error) from error
    return Answer((_tensors(response),))


def _tensors(response: oip.ModelInferResponse) -> Output:
    """The tensors by name, as text."""
    tensors = sorted(decode_response(response).items())
    return Output(text="; ".join(f"{name} {each.array.tolist()}" for name, each in tensors))


def _numbers(positions: Sequence[lm.PositionLogprobs]) -> list[float]:
    """Token by token: its log-probability, then those of the likeliest."""
    return [token.logprob for position in positions for token in (position.chosen, *position.top)]


def _failed(error: grpc.aio.AioRpcError) -> Failed:
    return Failed(f"{error.code().name}: {error.details()}")
