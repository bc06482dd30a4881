"""Bad input at the doors of the engine and the tokenizer: refused fast, by field, and no block of the cache is lost.

One table for each door: `BAD_MESSAGES` for the predictor's gRPC, `BAD_BODIES` for the gateway's REST. A new field of
the contract is a new row.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import Tensor, encode_request
from mesh.v1 import language_model_pb2 as lm
from tests.e2e.running import Mesh, eventually

INVALID = grpc.StatusCode.INVALID_ARGUMENT
# Tokenizing ten megabytes takes seconds; refusing them took 0.1 s, and 0.6 s through the gateway, when it was measured.
FAST_S = 3.0
TEN_MB = "word " * 2_000_000


def message(text: str = "Hi", **changes: Any) -> bytes:
    """A `GenerateRequest` on the wire. changes: of the sampling, or of the request where it has that field."""
    of_request = {key: value for key, value in changes.items() if key in lm.GenerateRequest.DESCRIPTOR.fields_by_name}
    of_sampling = {key: value for key, value in changes.items() if key not in of_request}
    sampling = lm.SamplingParameters(**{"max_tokens": 2, "temperature": 0, **of_sampling})
    request = lm.GenerateRequest(model_name="smollm2", sampling=sampling, **{"text": text, **of_request})
    return request.SerializeToString()


def token_ids(*ids: int) -> dict[str, Any]:
    return {"text": None, "token_ids": lm.TokenIds(ids=ids)}


# What → its bytes, the sentence.
BAD_MESSAGES: dict[str, tuple[bytes, str]] = {
    "empty prompt": (message(""), "prompt is empty; give at least one token"),
    "no prompt": (message(text=None), "prompt is not set"),  # type: ignore[arg-type]
    "text of 10 MB": (message(TEN_MB), "prompt has 10000000 characters; the model takes 8192 tokens"),
    "2.5 million ids": (message(**token_ids(*[1] * 2_500_000)), "prompt has 2500000 tokens"),
    "text that is not UTF-8": (message("Q").replace(b"\x01Q", b"\x01\xff"), "a string in it is not UTF-8"),
    "no message": (b"\xff\xff\xff", "the request is malformed"),
    "unknown token": (message(**token_ids(1, 49_152)), "prompt has token id 49152; the vocabulary is 0 to 49151"),
    "negative token": (message(**token_ids(-1)), "prompt has token id -1"),
    "temperature NaN": (message(temperature=math.nan), "temperature is nan; it must be 0.0 to 2.0"),
    "temperature infinite": (message(temperature=math.inf), "temperature is inf"),
    "temperature negative": (message(temperature=-1), "temperature is -1.0"),
    "top_p 0": (message(top_p=0), "top_p is 0.0; it must be above 0"),
    "top_p NaN": (message(top_p=math.nan), "top_p is nan"),
    "min_p NaN": (message(min_p=math.nan), "min_p is nan"),
    "top_k negative": (message(top_k=-1), "top_k is -1"),
    "max_tokens 0": (message(max_tokens=0), "max_tokens is 0; it must be 1 to 8192"),
    "max_tokens largest": (message(max_tokens=2**31 - 1), "max_tokens is 2147483647; it must be 1 to 8192"),
    "logprobs 21": (message(logprobs=21), "logprobs is 21"),
    "1,000 stop strings": (message(stop=[f"s{i}" for i in range(1000)]), "stop has 1000 strings; at most 16 are taken"),
    "empty stop string": (message(stop=[""]), "stop has an empty string"),
    "long stop string": (message(stop=["x" * 257]), "stop has 257 characters in one string; at most 256"),
    "unknown stop token": (message(stop_token_ids=[1 << 30]), "stop_token_ids has token id 1073741824"),
    "priority": (message(priority=5000), "priority is 5000; it must be -1000 to 1000"),
    "long salt": (message(cache_salt="x" * 1000), "cache_salt has 1000 characters; at most 256"),
    "unknown token in logit_bias": (message(logit_bias={49_152: 1}), "logit_bias has token id 49152"),
    "logit_bias NaN": (message(logit_bias={5: math.nan}), "logit_bias[5] is nan; it must be -100.0 to 100.0"),
    "logit_bias of 1,025": (message(logit_bias=dict.fromkeys(range(1025), 1)), "logit_bias has 1025 entries"),
    "penalty NaN": (message(frequency_penalty=math.nan), "frequency_penalty is nan; it must be -2.0 to 2.0"),
    "penalty 3": (message(presence_penalty=3), "presence_penalty is 3.0"),
    "repetition_penalty 0": (message(repetition_penalty=0), "repetition_penalty is 0.0; it must be above 0"),
    "n 0": (message(n=0), "n is 0; it must be 1 to 128"),
    "n 129": (message(n=129), "n is 129"),
    "n of a continuation": (message(n=2, continue_from=[5]), "n is 2; it must be 1 where continue_from is given"),
    "negative sample_index": (message(sample_index=-1), "sample_index is -1"),
    "min_tokens above max_tokens": (message(min_tokens=3), "min_tokens is 3; it must be 0 to 2"),
    "65 bad words": (message(bad_words=["a"] * 65), "bad_words has 65 texts; at most 64"),
    "empty bad word": (message(bad_words=[""]), "bad_words has a text of 0 characters"),
    "prompt_logprobs 21": (message(prompt_logprobs=21), "prompt_logprobs is 21"),
    "empty guide": (message(guide=lm.Guide()), "guide is empty"),
    "schema that is no JSON": (message(guide=lm.Guide(json_schema="{")), "json_schema is no JSON"),
    "schema without an end": (message(guide=lm.Guide(json_schema='{"$ref": "#"}')), "json_schema allows no value"),
    "contradictory schema": (
        message(guide=lm.Guide(json_schema='{"type": "integer", "minimum": 2, "maximum": 1}')),
        "json_schema is not taken: ",
    ),
    "unknown keyword": (message(guide=lm.Guide(json_schema='{"requird": []}')), "keyword 'requird' at #"),
    "schema of 1 MB": (
        message(guide=lm.Guide(json_schema=json.dumps({"enum": ["x" * 1000] * 1000}))),
        "at most 262144 are taken",
    ),
    "expression that is not closed": (message(guide=lm.Guide(regex="(a")), "regex is not taken: unclosed group"),
    "expression of great cost": (message(guide=lm.Guide(regex="((a{1,1000}){1,1000}){1,1000}")), "regex"),
    "grammar without a start": (message(guide=lm.Guide(grammar="x: /a/")), "grammar is not taken: no start rule"),
    "grammar of 5,000 rules in a row": (
        message(
            guide=lm.Guide(grammar="start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(5000)) + 'r5000: "a"')
        ),
        "grammar",
    ),
    "no choices": (message(guide=lm.Guide(choices=lm.Choices())), "choices is empty"),
    "longer continuation than output": (message(continue_from=[1] * 5), "continue_from has 5 tokens; at most 2"),
}


def body(**changes: Any) -> bytes:
    return json.dumps({"model": "smollm2", "prompt": "Hi", "max_tokens": 2, **changes}).encode()


# What → the body, the OpenAI param, words of the sentence.
BAD_BODIES: dict[str, tuple[bytes, str | None, str]] = {
    "empty prompt": (body(prompt=""), "prompt", "prompt is empty"),
    "no prompt": (body(prompt=None), "prompt", "'prompt' must be"),
    "text of 10 MB": (body(prompt=TEN_MB), "prompt", "prompt has 10000000 characters; the model takes 8192 tokens"),
    "text that is not UTF-8": (b'{"model":"smollm2","prompt":"\xff\xfe"}', None, "not valid UTF-8"),
    "half a surrogate pair": (b'{"model":"smollm2","prompt":"a\\ud800"}', None, "surrogate"),
    "unknown token": (body(prompt=[1, 49_152]), "prompt", "prompt has token id 49152"),
    "temperature NaN": (body(temperature=math.nan), None, "the body is not JSON"),
    "temperature infinite": (body().replace(b": 2", b': 2, "temperature": 1e999'), None, "the body is not JSON"),
    "temperature negative": (body(temperature=-1), "temperature", "'temperature' is wrong"),
    "top_p 0": (body(top_p=0), "top_p", "'top_p' is wrong: input should be greater than 0"),
    "max_tokens 0": (body(max_tokens=0), "max_tokens", "max_tokens is 0; it must be at least 1"),
    "max_tokens 2^31": (body(max_tokens=2**31), "max_tokens", "less than or equal to 2147483647"),
    "max_tokens 2^31 - 1": (body(max_tokens=2**31 - 1), "max_tokens", "max_tokens is 2147483647; it must be 1 to 8192"),
    "max_tokens 2^63": (body(max_tokens=2**63), "max_tokens", "'max_tokens' is wrong"),
    "1,000 stop strings": (body(stop=[f"s{i}" for i in range(1000)]), "stop", "at most 16 items"),
    "empty stop string": (body(stop=[""]), "stop", "stop has an empty string"),
    "unknown token in logit_bias": (body(logit_bias={"49152": 1}), "logit_bias", "logit_bias has token id 49152"),
    "1,000 choices": (body(n=1000), "n", "'n' is wrong"),
    "schema that is no schema": (body(guided_json={"type": "strin"}), "guided_json", "Invalid type: strin"),
    "seed 2^64": (body(seed=2**64), "seed", "'seed' is wrong"),
}


@pytest.fixture(autouse=True)
def no_block_is_lost(mesh: Mesh) -> Iterator[None]:
    pid = mesh.service("predictor")["pid"]
    yield
    eventually(lambda: cache_use(mesh) == {"running": 0.0, "waiting": 0.0, "blocks": 0.0}, 20, "the engine is empty")
    assert mesh.service("predictor")["pid"] == pid
    assert httpx.get(f"{mesh.url}/v2/models/smollm2/ready").json()["ready"] is True


def cache_use(mesh: Mesh) -> dict[str, float]:
    """What the predictor's metrics say of its engine: requests in it, and the share of blocks that they hold."""
    names = {
        "vllm:num_requests_running": "running",
        "vllm:num_requests_waiting": "waiting",
        "vllm:kv_cache_usage_perc": "blocks",
    }
    text = httpx.get(f"http://{mesh.service('predictor')['metrics_address']}/metrics").text
    found = {}
    for line in text.splitlines():
        name, _, _ = line.partition("{")
        if name in names:
            found[names[name]] = float(line.rsplit(" ", 1)[1])
    return found


@pytest.fixture(scope="session")
def channel(mesh: Mesh) -> Iterator[grpc.Channel]:
    """To the predictor itself: the gateway would refuse some of this before it."""
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(mesh.service("predictor")["grpc_address"], options) as channel:
        yield channel


def generate(channel: grpc.Channel, content: bytes) -> list[lm.GenerateResponse]:
    method = channel.unary_stream(
        "/mesh.v1.LanguageModel/Generate", response_deserializer=lm.GenerateResponse.FromString
    )
    return list(method(content, timeout=60))


def test_what_the_tables_change_is_all_that_is_wrong(mesh: Mesh, channel: grpc.Channel) -> None:
    [*_, last] = generate(channel, message())
    answer = httpx.post(f"{mesh.url}/v1/completions", content=body(), timeout=60)

    assert last.usage.output_tokens == 2
    assert answer.status_code == 200


@pytest.mark.parametrize("what", BAD_MESSAGES)
def test_the_predictor_refuses_and_names_the_field(channel: grpc.Channel, what: str) -> None:
    content, sentence = BAD_MESSAGES[what]
    start = time.monotonic()

    with pytest.raises(grpc.RpcError) as refusal:
        generate(channel, content)

    assert time.monotonic() - start < FAST_S
    error: Any = refusal.value  # grpc.RpcError has no types
    assert error.code() is INVALID
    assert sentence in error.details()


@pytest.mark.parametrize("what", BAD_BODIES)
def test_the_gateway_refuses_and_names_the_field(mesh: Mesh, what: str) -> None:
    content, param, words = BAD_BODIES[what]
    start = time.monotonic()

    answer = httpx.post(f"{mesh.url}/v1/completions", content=content, timeout=60)

    assert time.monotonic() - start < FAST_S
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("text", "parameters", "sentence"),
    [
        (b"\xff\xc3", {}, "input 'text_input' is not UTF-8"),
        (b"", {}, "prompt is empty"),
        (TEN_MB.encode(), {}, "prompt has 10000000 characters; the model takes 8192 tokens"),
        (b"Hi", {"temperature": math.inf}, "temperature"),
        (b"Hi", {"top_p": 0}, "top_p is 0"),
        (b"Hi", {"max_tokens": 0}, "max_tokens is 0"),
        (b"Hi", {"max_tokens": 2**31}, "max_tokens"),
        (b"Hi", {"stop": ["x"] * 1000}, "stop"),
        (b"Hi", {"logit_bias": {"49152": 1}}, "logit_bias has token id 49152"),
        (b"Hi", {"guided_regex": "(a"}, "regex is not taken: unclosed group"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_tensors_of_text_are_refused_alike(
    channel: grpc.Channel, text: bytes, parameters: dict[str, Any], sentence: str
) -> None:
    request = oip.ModelInferRequest(model_name="smollm2")
    tensors = {"text_input": text, "sampling_parameters": json.dumps({"max_tokens": 2, **parameters}).encode()}
    encode_request(request, [Tensor(name, "BYTES", np.array([value], dtype=object)) for name, value in tensors.items()])

    with pytest.raises(grpc.RpcError) as refusal:
        GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)  # type: ignore[arg-type]  # a sync channel

    error: Any = refusal.value  # as above
    assert error.code() is INVALID
    assert sentence in error.details()
