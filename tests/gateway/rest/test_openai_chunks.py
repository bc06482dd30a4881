"""The bodies that OpenAI's clients get, against golden files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from gateway.rest.openai_chunks import ChatBodies, Choice, TextBodies, usage_json
from mesh.v1 import language_model_pb2 as lm

GOLDEN = Path(__file__).parent.parent / "golden"


def assert_golden(name: str, bodies: list[Any]) -> None:
    """The file has one body a line; delete it to have it written anew, and read the difference."""
    file = GOLDEN / name
    lines = b"".join(orjson.dumps(body) + b"\n" for body in bodies)
    if not file.exists():
        file.write_bytes(lines)
    assert lines.decode() == file.read_text(encoding="utf-8")


def said() -> list[lm.GenerateResponse]:
    start = lm.GenerationStart(model_name="chat", model_version="1", model_digest="ab" * 32, prompt_tokens=5)
    token = lm.TokenLogprob(token_id=7, text="Hé", logprob=-0.25, token_bytes="Hé".encode())
    end = lm.TokenLogprob(token_id=2, logprob=-0.125)
    return [
        lm.GenerateResponse(start=start),
        lm.GenerateResponse(text="Hé", token_ids=[7], logprobs=[lm.PositionLogprobs(chosen=token, top=[token, end])]),
        lm.GenerateResponse(token_ids=[2], logprobs=[lm.PositionLogprobs(chosen=end, top=[end])]),
        lm.GenerateResponse(
            finish_reason=lm.FINISH_REASON_STOP,
            usage=lm.Usage(prompt_tokens=5, cached_tokens=4, output_tokens=2),
        ),
    ]


def choice(index: int = 0) -> Choice:
    made = Choice(index)
    for message in said():
        made.add(message)
    return made


def chunks(envelope: ChatBodies | TextBodies) -> list[Any]:
    part = Choice(0)
    bodies: list[Any] = []
    for message in said():
        part.add(message)
        if message.HasField("start"):
            bodies.append(envelope.first_chunk(part))
        if message.text or part.logprobs:
            bodies.append(envelope.chunk(part, message.text, part.logprobs))
        if part.finish_reason:
            bodies.append(envelope.last_chunk(part))
        part.forget_sent()
    return [*bodies, envelope.usage_chunk(part, usage_json([part], 1))]


def test_chat_bodies() -> None:
    envelope = ChatBodies("chatcmpl-1", 1700000000, "chat")
    choices = [choice(0), choice(1)]

    assert_golden("chat_completion.jsonl", [envelope.whole(choices, usage_json(choices, 2), with_logprobs=True)])
    assert_golden("chat_completion_chunks.jsonl", chunks(envelope))


def test_text_bodies() -> None:
    envelope = TextBodies("cmpl-1", 1700000000, "chat")
    choices = [choice(0), choice(1)]

    assert_golden("text_completion.jsonl", [envelope.whole(choices, usage_json(choices, 1), with_logprobs=True)])
    assert_golden("text_completion_chunks.jsonl", chunks(envelope))


def test_bodies_without_logprobs_and_digest() -> None:
    bare = Choice(0, texts=["x"], finish_reason="length")

    body = ChatBodies("chatcmpl-1", 1700000000, "chat").whole([bare], usage_json([bare], 1), with_logprobs=False)

    assert "system_fingerprint" not in body
    assert body["choices"][0]["logprobs"] is None
