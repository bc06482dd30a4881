"""/v1/rerank and its other names, against a real gateway on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.rest.rerank import MAX_DOCUMENTS, parse_rerank_request
from mesh.errors import InvalidInput
from tests.gateway.conftest import Door
from tests.gateway.fake_text_models import TOO_LONG, open_text_door

DOCUMENTS = ["a dog", "the red fox", "a red dog", "the red fox again"]


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    async with open_text_door(tmp_path) as (opened, _):
        yield opened


async def post(door: Door, path: str = "/v1/rerank", **body: Any) -> httpx.Response:
    return await door.http.post(path, json={"model": "rerank", "query": "red fox", "documents": DOCUMENTS} | body)


async def test_documents_come_by_relevance_and_equals_in_their_order(door: Door) -> None:
    answer = await post(door)

    body = answer.json()
    for path in ("/v2/rerank", "/rerank"):
        assert (await post(door, path)).json()["results"] == body["results"]
    assert [(one["index"], one["relevance_score"]) for one in body["results"]] == [(1, 1), (3, 1), (2, 0.5), (0, 0)]
    assert body["results"][0]["document"] == {"text": "the red fox"}
    assert body["id"] == f"rerank-{answer.headers['x-request-id']}"
    assert (body["model"], body["usage"]) == ("rerank", {"prompt_tokens": 28, "total_tokens": 28})


async def test_only_the_first_ones_without_their_texts(door: Door) -> None:
    answer = await post(door, top_n=2, return_documents=False)

    assert answer.json()["results"] == [{"index": 1, "relevance_score": 1.0}, {"index": 3, "relevance_score": 1.0}]


async def test_more_than_there_are_is_all(door: Door) -> None:
    assert len((await post(door, top_n=100)).json()["results"]) == len(DOCUMENTS)


async def test_documents_may_be_objects(door: Door) -> None:
    answer = await post(door, documents=[{"text": "a", "title": "x"}, "red fox"])

    assert [one["document"]["text"] for one in answer.json()["results"]] == ["red fox", "a"]


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        ({"query": ""}, "query", "'query' is wrong"),
        ({"query": None}, "query", "'query' is wrong"),
        ({"documents": []}, "documents", f"'documents' must be a list of 1 to {MAX_DOCUMENTS} texts or objects"),
        ({"documents": ["a"] * (MAX_DOCUMENTS + 1)}, "documents", "'documents' must be a list"),
        ({"documents": ["a", 1]}, "documents", "'documents' must be a list"),
        ({"documents": [{"title": "a"}]}, "documents", "objects with a 'text'"),
        ({"documents": "a"}, "documents", "'documents' must be a list"),
        ({"query": "x" * 9000, "documents": ["a"] * 2000}, "query", "'query' takes 18000000 bytes beside 2000"),
        ({"top_n": 0}, "top_n", "'top_n' is wrong"),
        ({"top_n": "1"}, "top_n", "'top_n' is wrong"),
        ({"return_documents": "no"}, "return_documents", "'return_documents' is wrong"),
        ({"rank_fields": ["title"]}, "rank_fields", "'rank_fields' is not served"),
        ({"max_tokens_per_doc": 4096}, "max_tokens_per_doc", "'max_tokens_per_doc' is not served"),
    ],
)
def test_body_that_is_wrong_is_refused_by_field(body: dict[str, Any], param: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_rerank_request({"model": "rerank", "query": "red fox", "documents": DOCUMENTS} | body)

    assert caught.value.field == param
    assert sentence in caught.value.message


async def test_what_the_model_refuses_is_named(door: Door) -> None:
    refusals: list[tuple[dict[str, Any], str, str]] = [
        ({"documents": ["a", TOO_LONG]}, "documents[1]", "documents[1] has 9 tokens; the model takes 8"),
        ({"model": "embed"}, "model", "model 'embed' is no reranker"),
        ({"model": "labels"}, "model", "model 'labels' is no reranker: it does not give one 'score'"),
        ({"top_n": 0}, "top_n", "'top_n' is wrong"),
    ]
    for body, param, sentence in refusals:
        answer = await post(door, **body)

        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param)
        assert sentence in error["message"]


async def test_other_names_have_plain_errors(door: Door) -> None:
    answer = await post(door, "/v2/rerank", model="nobody")

    assert answer.status_code == 404
    assert "'nobody'" in answer.json()["error"]


async def test_request_leaves_a_record(door: Door) -> None:
    await post(door)

    (record,) = await door.records()
    assert (record["route"], record["deployment"], record["status"]) == ("/v1/rerank", "rerank", "OK")
    assert [one["name"] for one in record["tensor_calls"][0]["inputs"]] == ["query", "document"]


def test_missing_documents_are_named() -> None:
    with pytest.raises(InvalidInput, match="'documents' is required"):
        parse_rerank_request({"model": "rerank", "query": "x"})
