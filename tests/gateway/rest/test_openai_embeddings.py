"""/v1/embeddings by the stock client, against a real gateway on a real port."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from gateway.rest.openai_embeddings import MAX_INPUTS, parse_embedding_request
from mesh.errors import InvalidInput
from tests.gateway.conftest import Door
from tests.gateway.fake_text_models import TOO_LONG, TOO_MANY, FakeTextModels, open_text_door, vector_of

TEXTS = ["one", "two words", "größer"]
VECTORS = np.stack([vector_of(text) for text in TEXTS])


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[tuple[Door, FakeTextModels]]:
    async with open_text_door(tmp_path) as both:
        yield both


@pytest.fixture
def door(opened: tuple[Door, FakeTextModels]) -> Door:
    return opened[0]


@pytest.fixture
async def client(door: Door) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0, timeout=10) as made:
        yield made


async def post(door: Door, **body: Any) -> httpx.Response:
    return await door.http.post("/v1/embeddings", json={"model": "embed", "input": "one"} | body)


@pytest.mark.parametrize("encoding_format", [openai.omit, "float", "base64"])
async def test_texts_become_vectors_in_their_order(client: openai.AsyncOpenAI, encoding_format: Any) -> None:
    answer = await client.embeddings.create(model="embed", input=TEXTS, encoding_format=encoding_format)

    vectors: Any = [one.embedding for one in answer.data]
    if encoding_format == "base64":  # which the client decodes only where it asked for it by itself
        vectors = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in vectors]
    assert np.array_equal(np.array(vectors, dtype=np.float32), VECTORS)
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert (answer.model, answer.object, answer.data[0].object) == ("embed", "list", "embedding")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (10, 10)


async def test_sync_client_asks_for_one_text(door: Door) -> None:
    def ask() -> list[float]:
        with openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
            return client.embeddings.create(model="embed", input="one").data[0].embedding

    assert np.array_equal(np.array(await asyncio.to_thread(ask), np.float32), VECTORS[0])


async def test_all_texts_are_one_call_to_the_model(
    client: openai.AsyncOpenAI, opened: tuple[Door, FakeTextModels]
) -> None:
    await client.embeddings.create(model="embed", input=TEXTS)

    assert [list(request.inputs[0].shape) for request in opened[1].requests] == [[3]]


async def test_fewer_dimensions_are_normalized_again(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="embed", input=TEXTS, dimensions=3)

    expected = VECTORS[:, :3] / np.linalg.norm(VECTORS[:, :3], axis=1, keepdims=True)
    np.testing.assert_allclose([one.embedding for one in answer.data], expected, atol=1e-6)
    whole = await client.embeddings.create(model="embed", input=TEXTS, dimensions=8)
    np.testing.assert_allclose([one.embedding for one in whole.data], VECTORS, atol=1e-6)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_many_vectors_are_written_as_few_are(client: openai.AsyncOpenAI, encoding_format: Any) -> None:
    texts = [f"text {number}" for number in range(MAX_INPUTS)] * 5

    with pytest.raises(openai.BadRequestError, match=f"list of 1 to {MAX_INPUTS} texts"):
        await client.embeddings.create(model="embed", input=texts)
    answer = await client.embeddings.create(model="embed", input=texts[:MAX_INPUTS], encoding_format=encoding_format)

    assert [one.index for one in answer.data] == list(range(MAX_INPUTS))


async def test_model_that_counts_no_tokens_has_no_usage_to_tell(client: openai.AsyncOpenAI) -> None:
    answer = await client.embeddings.create(model="quiet", input="one")

    assert answer.usage.total_tokens == 0


async def test_fields_without_meaning_here_are_ignored(door: Door) -> None:
    answer = await post(door, user="someone", dimensions=None, encoding_format=None, anything=[1])

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        ({"input": None}, "input", "'input' is wrong"),
        ({"input": ""}, "input", "'input' must be a text or a list of 1 to 2048 texts, and no text may be empty"),
        ({"input": []}, "input", "'input' must be a text or a list"),
        ({"input": ["a", ""]}, "input", "no text may be empty"),
        ({"input": ["a", 1]}, "input", "'input' must be a text or a list"),
        ({"input": {"text": "a"}}, "input", "'input' must be a text or a list"),
        ({"input": [1, 2]}, "input", "'input' holds token ids, which are those of another model's vocabulary"),
        ({"input": [[1], [2]]}, "input", "check_embedding_ctx_length=False"),
        ({"model": None}, "model", "'model' is wrong"),
        ({"dimensions": 0}, "dimensions", "'dimensions' is wrong"),
        ({"dimensions": 2.5}, "dimensions", "'dimensions' is wrong"),
        ({"encoding_format": "hex"}, "encoding_format", "'encoding_format' is wrong"),
        ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "'truncate_prompt_tokens' is not served"),
    ],
)
def test_body_that_is_wrong_is_refused_by_field(body: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_embedding_request({"model": "embed", "input": "one"} | body)

    assert caught.value.field == param
    assert sentence in caught.value.message


async def test_what_the_model_refuses_is_said_in_openais_form(door: Door) -> None:
    refusals: list[tuple[dict[str, Any], str, str]] = [
        ({"input": ["a", TOO_LONG]}, "input[1]", "input[1] has 9 tokens; the model takes 8"),
        ({"input": [TOO_MANY]}, "input", "has a batch of 9; the model takes at most 8"),
        ({"model": "iris"}, "model", "model 'iris' makes no embeddings: it has no output 'embedding'"),
        ({"model": "rerank"}, "model", "model 'rerank' makes no embeddings"),
        ({"dimensions": 9}, "dimensions", "'dimensions' is 9; the model's vectors have 8"),
        ({"input": []}, "input", "'input' must be a text or a list"),
    ]
    for body, param, sentence in refusals:
        answer = await post(door, **body)

        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
        assert sentence in error["message"]


async def test_text_that_is_too_long_has_openais_code(door: Door) -> None:
    assert (await post(door, input=TOO_LONG)).json()["error"]["code"] == "context_length_exceeded"


async def test_model_that_cannot_answer(door: Door) -> None:
    for model, status, kind in (
        ("nobody", 404, "not_found_error"),
        ("absent", 503, "service_unavailable_error"),
        ("broken", 500, "api_error"),
    ):
        answer = await post(door, model=model)

        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)


async def test_method_and_body_that_are_none_are_refused(door: Door) -> None:
    assert (await door.http.get("/v1/embeddings")).status_code == 405
    assert (await door.http.post("/v1/embeddings", content=b"[1")).status_code == 400


async def test_embedding_model_does_not_chat(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="model 'embed' does not generate text"):
        await client.chat.completions.create(model="embed", messages=[{"role": "user", "content": "hi"}])


async def test_request_leaves_a_record(client: openai.AsyncOpenAI, door: Door) -> None:
    await client.embeddings.create(model="embed", input=TEXTS)

    (record,) = await door.records()
    assert (record["route"], record["deployment"], record["status"]) == ("/v1/embeddings", "embed", "OK")
    (call,) = record["tensor_calls"]
    assert call["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [3]}]
    assert call["outputs"][0] == {"name": "embedding", "datatype": "FP32", "shape": [3, 8]}


def test_missing_input_is_named() -> None:
    with pytest.raises(InvalidInput, match="'input' is required") as caught:
        parse_embedding_request({"model": "embed"})

    assert caught.value.field == "input"
