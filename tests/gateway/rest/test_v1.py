"""The V1 routes over a real port."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.conftest import Door

ROWS = [[1, 2, 3, 4], [5.5, 6, 7, 8]]


async def test_rows_are_predicted(door: Door) -> None:
    answer = await door.http.post("/v1/models/echo:predict", json={"instances": ROWS})

    assert (answer.status_code, answer.json()) == (200, {"predictions": [[1.0, 2.0, 3.0, 4.0], [5.5, 6.0, 7.0, 8.0]]})


async def test_metadata_is_asked_once(door: Door) -> None:
    for _ in range(3):
        await door.http.post("/v1/models/echo:predict", json={"instances": ROWS})

    assert door.inference.metadata_calls == 1


async def test_several_inputs_and_outputs(door: Door) -> None:
    body = {"instances": [{"a": 2**62, "b": [0.5, 1]}, {"a": 2, "b": [1.5, 2]}]}

    rows = (await door.http.post("/v1/models/pair:predict", json=body)).json()
    columns = (await door.http.post("/v1/models/pair:predict", json={"inputs": {"a": [1], "b": [[1, 2]]}})).json()

    assert rows == {"predictions": [{"a": 2**62, "b": [0.5, 1.0]}, {"a": 2, "b": [1.5, 2.0]}]}
    assert columns == {"outputs": {"a": [1], "b": [[1.0, 2.0]]}}


async def test_prompts_and_messages_are_predicted(door: Door) -> None:
    body = {
        "instances": [
            {"prompt": "Once", "seed": 5},
            {"messages": [{"role": "user", "content": "hi"}], "temperature": 0},
        ],
        "parameters": {"max_tokens": 7, "seed": 4},
    }

    answer = await door.http.post("/v1/models/chat:predict", json=body)

    assert answer.json() == {"predictions": ["Hello wörld!", "Hello wörld!"]}
    by_seed = {request.sampling.seed: request for request in door.model.requests}
    assert set(by_seed) == {4, 5}
    assert by_seed[5].text == "Once"
    assert all(request.sampling.max_tokens == 7 for request in door.model.requests)


async def test_rows_are_explained_by_the_method_of_the_deployment(door: Door) -> None:
    answer = await door.http.post("/v1/models/echo:explain", json={"instances": ROWS})

    first, second = answer.json()["explanations"]
    assert (first["target"], first["score"], first["base_score"], second["score"]) == ("0", 10.0, 0.0, 26.5)
    assert first["attributions"][3] == {"name": "f3", "value": 4.0}
    assert door.explainer.requests[0].method == "shapley"


async def test_prompts_are_explained_one_by_one(door: Door) -> None:
    body = {
        "instances": [
            {"prompt": "Why?", "target": "Because", "max_tokens": 3},
            {"messages": [{"role": "user", "content": "Who?"}]},
        ],
        "method": "leave_one_out",
    }

    answer = await door.http.post("/v1/models/chat:explain", json=body)

    first, second = answer.json()["explanations"]
    assert first == {
        "target": "Because",
        "score": -1.5,
        "rendered_prompt": "<user>Why?",
        "attributions": [{"name": "Why?", "value": 0.25, "start": 6, "length": 4}],
    }
    assert second["target"] == "answer"
    assert {request.method for request in door.explainer.requests} == {"leave_one_out"}
    assert {request.text.max_tokens for request in door.explainer.requests} == {3, 0}


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("nobody:predict", {"instances": [1]}, 404, "'nobody' is not deployed"),
        ("echo:predict", {}, 400, "'instances'"),
        ("echo:predict", {"instances": [["a"]]}, 400, "takes numbers"),
        ("echo:predict", {"instances": [{"bad": 1}]}, 400, "no input 'bad'"),
        ("pair:explain", {"instances": [{"a": 1, "b": [1, 2]}]}, 404, "no explainer"),
        ("echo:explain", {"instances": ROWS, "method": 7}, 400, "'method'"),
        ("chat:predict", {"instances": ["text"]}, 400, "instances[0] must be an object"),
        ("chat:predict", {"instances": [{"prompt": "x", "messages": []}]}, 400, "'prompt' or 'messages'"),
        ("chat:predict", {"instances": [{"prompt": 7}]}, 400, "prompt must be a string"),
        ("chat:predict", {"instances": [{"messages": [{"role": "user"}]}]}, 400, "'messages[0].content'"),
        ("chat:predict", {"instances": [{"prompt": "x", "temprature": 1}]}, 400, "no parameter 'temprature'"),
        ("chat:predict", {"instances": [{"prompt": "x"}], "parameters": [1]}, 400, "'parameters'"),
        ("chat:predict", {"instances": [{"prompt": "x"}] * 129}, 400, "the limit is 128"),
        ("chat:explain", {"instances": [{"prompt": "x", "goal": "y"}]}, 400, "unknown field 'goal'"),
        ("chat:explain", {"instances": [{"prompt": "x", "target": 7}]}, 400, "target must be a string"),
        ("chat:explain", {"instances": [{"prompt": "x", "max_tokens": 0}]}, 400, "max_tokens"),
    ],
)
async def test_wrong_request_is_one_sentence(
    door: Door, path: str, body: dict[str, Any], status: int, says: str
) -> None:
    answer = await door.http.post(f"/v1/models/{path}", json=body)

    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert says in answer.json()["error"]


async def test_get_of_a_verb_is_not_allowed(door: Door) -> None:
    answer = await door.http.get("/v1/models/echo:predict")

    assert answer.status_code == 405
    assert answer.json()["error"] == "GET is not allowed on this path; allowed: POST"


async def test_client_that_leaves_ends_all_texts(door: Door) -> None:
    body = {"instances": [{"prompt": "waits"}, {"prompt": "waits too"}]}
    request = asyncio.create_task(door.http.post("/v1/models/chat:predict", json=body))
    async with asyncio.timeout(5):
        await door.model.started.wait()
        request.cancel()
        await door.model.cancelled.wait()
