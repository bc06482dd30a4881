"""vLLM's /tokenize and /detokenize, by HTTP against a real gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.conftest import Door


async def test_tokenize_a_text_and_a_conversation(door: Door) -> None:
    ids = {"count": 5, "max_model_len": 64, "tokens": [1, 2, 3, 4, 5], "token_strs": None}

    text = await door.http.post("/tokenize", json={"model": "chat", "prompt": "hi"})
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    chat = await door.http.post("/tokenize", json=body)

    assert (text.status_code, text.json()) == (200, ids)
    assert (chat.status_code, chat.json()) == (200, ids)
    assert [request.WhichOneof("input") for request in door.model.tokenized] == ["text", "messages"]
    assert '"name":"f"' in door.model.tokenized[1].messages.tools_json


async def test_detokenize(door: Door) -> None:
    answer = await door.http.post("/detokenize", json={"model": "chat", "tokens": [7, 8]})
    nothing = await door.http.post("/detokenize", json={"model": "chat", "tokens": []})

    assert (answer.status_code, answer.json()) == (200, {"prompt": "7 8"})
    assert nothing.json() == {"prompt": ""}


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {"model": "chat"}, 400, "prompt"),
        ("/tokenize", {"prompt": "hi"}, 400, "model"),
        ("/tokenize", {"model": "chat", "prompt": "hi", "messages": []}, 400, "prompt"),
        ("/tokenize", {"model": "chat", "messages": []}, 400, "messages"),
        ("/tokenize", {"model": "chat", "prompt": "hi", "return_token_strs": True}, 400, "return_token_strs"),
        ("/tokenize", {"model": "chat", "prompt": "hi", "add_special_tokens": False}, 400, "add_special_tokens"),
        ("/tokenize", {"model": "echo", "prompt": "hi"}, 400, "model"),
        ("/tokenize", {"model": "nobody", "prompt": "hi"}, 404, "model"),
        ("/detokenize", {"model": "chat", "tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"model": "chat", "tokens": "hi"}, 400, "tokens"),
        ("/detokenize", {"model": "echo", "tokens": [1]}, 400, "model"),
        ("/detokenize", {"model": "nobody", "tokens": [1]}, 404, "model"),
    ],
)
async def test_wrong_requests_name_the_field(
    door: Door, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = await door.http.post(path, json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
