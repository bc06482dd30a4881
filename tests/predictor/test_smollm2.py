"""The real SmolLM2 behind a real predictor: text, tokens, scores, seeds, cancel, and an engine that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import numpy as np
import psutil
import pytest
import pytest_asyncio

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import Tensor, decode_response, encode_request
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from tests.conftest import SMOLLM2_SHA256
from tests.predictor.generating import PROMPT, generate, generation, metric, text_of, tokens_of
from tests.predictor.running import RunningPredictor, eventually, running_predictor

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def predictor(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningPredictor]:
    folder = tmp_path_factory.mktemp("predictor")
    deployments = folder / "deployments.yaml"
    spec = {"model_format": "llm", "storage_uri": smollm2_gguf.as_uri(), "sha256": SMOLLM2_SHA256, "model_version": 2}
    deployments.write_text(json.dumps({"deployments": [{"name": "smollm2", "predictor": spec}]}))
    async with running_predictor(folder, "--deployments", str(deployments)) as running:
        await running.until_ready("smollm2", 240)
        yield running
        assert await asyncio.to_thread(running.terminate) == 0


@pytest_asyncio.fixture(loop_scope="module")
async def channel(predictor: RunningPredictor) -> AsyncIterator[grpc.aio.Channel]:
    await predictor.until_ready("smollm2", 240)
    async with predictor.channel() as channel:
        yield channel


async def test_it_knows_the_capital_of_france(channel: grpc.aio.Channel) -> None:
    responses = await generate(channel, generation())

    assert text_of(responses).startswith(" Paris")
    start = responses[0].start
    assert (start.model_name, start.model_version, start.model_digest) == ("smollm2", "2", SMOLLM2_SHA256)
    assert start.prompt_tokens == 5
    assert responses[-1].finish_reason == lm.FINISH_REASON_LENGTH
    assert responses[-1].usage.output_tokens == 8
    assert responses[-1].timings.total_s >= responses[-1].timings.first_token_s > 0


async def test_the_same_seed_gives_the_same_tokens_and_continues_them(channel: grpc.aio.Channel) -> None:
    first = await generate(channel, generation(temperature=1, max_tokens=10))
    seed = first[0].start.seed

    again = await generate(channel, generation(temperature=1, max_tokens=10, seed=seed))
    request = generation(temperature=1, max_tokens=10, seed=seed)
    request.continue_from.extend(tokens_of(first)[:4])
    rest = await generate(channel, request)

    assert tokens_of(again) == tokens_of(first)
    assert tokens_of(rest) == tokens_of(first)[4:]


def text_request(stream: bool | None = None, text: bytes = PROMPT.encode(), **more: Tensor) -> oip.ModelInferRequest:
    parameters = json.dumps({"temperature": 0, "max_tokens": 8}).encode()
    tensors = {
        "text_input": Tensor("text_input", "BYTES", np.array([text], dtype=object)),
        "sampling_parameters": Tensor("sampling_parameters", "BYTES", np.array([parameters], dtype=object)),
        **({} if stream is None else {"stream": flag("stream", stream)}),
        **more,
    }
    message = oip.ModelInferRequest(model_name="smollm2", id="x")
    encode_request(message, list(tensors.values()))
    return message


def flag(name: str, value: bool) -> Tensor:
    return Tensor(name, "BOOL", np.array([value]))


async def test_plain_oip_gets_the_same_text_whole_and_streamed(channel: grpc.aio.Channel) -> None:
    expected = text_of(await generate(channel, generation())).encode()
    stub = GRPCInferenceServiceStub(channel)

    whole = await stub.ModelInfer(text_request())
    alone = await stub.ModelInfer(text_request(exclude_input_in_output=flag("exclude_input_in_output", True)))
    pieces = [response async for response in stub.ModelStreamInfer(iter([text_request(stream=True)]))]
    [at_once] = [response async for response in stub.ModelStreamInfer(iter([text_request(stream=False)]))]

    assert decode_response(whole)["text_output"].array.tolist() == [PROMPT.encode() + expected]
    assert decode_response(alone)["text_output"].array.tolist() == [expected]
    assert decode_response(at_once.infer_response)["text_output"].array.tolist() == [PROMPT.encode() + expected]
    assert all(piece.infer_response.id == "x" for piece in pieces)
    assert len(pieces) > 1
    assert b"".join(decode_response(piece.infer_response)["text_output"].array[0] for piece in pieces) == expected


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (text_request(text=b"\xff"), "input 'text_input' is not UTF-8"),
        (
            text_request(stream=True, exclude_input_in_output=flag("exclude_input_in_output", False)),
            "a stream never repeats its input",
        ),
        (
            text_request(sampling_parameters=Tensor("sampling_parameters", "BYTES", np.array([b"{"], dtype=object))),
            "sampling_parameters is not JSON",
        ),
        (text_request(text=b""), "prompt is empty"),
    ],
)
async def test_bad_text_requests_are_answered_on_the_stream(
    channel: grpc.aio.Channel, request_: oip.ModelInferRequest, sentence: str
) -> None:
    requests = [request_, text_request(stream=False)]

    bad, good = [response async for response in GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(requests))]

    assert sentence in bad.error_message
    assert not good.error_message


async def test_scores_prefer_the_truth(channel: grpc.aio.Channel) -> None:
    items = [lm.ScoreRequest.Item(text=PROMPT, target_text=target) for target in (" Paris", " London")]

    response = await LanguageModelStub(channel).Score(lm.ScoreRequest(model_name="smollm2", items=items))

    paris, london = (sum(result.logprobs) for result in response.results)
    assert london < paris < 0


async def test_special_tokens_in_a_text_are_recognised(channel: grpc.aio.Channel) -> None:
    stub = LanguageModelStub(channel)

    tokens = await stub.Tokenize(lm.TokenizeRequest(model_name="smollm2", text="<|im_start|>user"))
    description = await stub.DescribeModel(lm.DescribeModelRequest(model_name="smollm2"))

    assert tokens.token_ids[0] == 1
    assert (description.architecture, description.vocab_size) == ("llama", 49152)
    assert "<|im_start|>" in description.chat_template
    assert 2 in description.eos_token_ids


async def test_an_over_long_prompt_names_both_numbers(channel: grpc.aio.Channel) -> None:
    limit = (
        await LanguageModelStub(channel).DescribeModel(lm.DescribeModelRequest(model_name="smollm2"))
    ).max_context_tokens

    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await generate(channel, lm.GenerateRequest(model_name="smollm2", text="word " * (limit + 10)))

    details = refusal.value.details() or ""
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(limit) in details
    assert str(limit + 11) in details or "characters" in details


async def test_a_cancelled_generation_frees_its_blocks(predictor: RunningPredictor, channel: grpc.aio.Channel) -> None:
    call = LanguageModelStub(channel).Generate(generation(max_tokens=2000, ignore_eos=True))
    await call.read()
    assert await metric(predictor, "vllm:num_requests_running") == 1

    call.cancel()

    async def is_idle() -> bool:
        return (
            await metric(predictor, "vllm:num_requests_running") == 0
            and await metric(predictor, "vllm:kv_cache_usage_perc") == 0
        )

    await eventually(is_idle, 20, "the cancelled request has left the engine")
    assert await metric(predictor, "vllm:request_success_total") > 0


async def test_a_killed_engine_comes_back_and_the_predictor_stays(
    predictor: RunningPredictor, channel: grpc.aio.Channel
) -> None:
    call = LanguageModelStub(channel).Generate(generation(max_tokens=2000, ignore_eos=True))
    await call.read()
    [engine] = psutil.Process(predictor.process.pid).children()

    os.kill(engine.pid, signal.SIGKILL)

    with pytest.raises(grpc.aio.AioRpcError) as broken:
        async for _ in call:
            pass
    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await generate(channel, generation())
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "model 'smollm2' is unavailable: the engine is" in (refusal.value.details() or "")
    await predictor.until_ready("smollm2", 240)
    assert text_of(await generate(channel, generation())).startswith(" Paris")
