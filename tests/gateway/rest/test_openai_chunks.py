"""The bodies that OpenAI's clients get, against golden files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.rest.openai_choices import Choices
from gateway.rest.openai_chunks import Bodies, ChatBodies, TextBodies
from gateway.rest.openai_requests import AnswerForm
from mesh.v1 import language_model_pb2 as lm

GOLDEN = Path(__file__).parent.parent / "golden"


def assert_golden(name: str, bodies: list[Any]) -> None:
    """The file has one body a line; delete it to have it written anew, and read the difference."""
    file = GOLDEN / name
    lines = b"".join(orjson.dumps(body) + b"\n" for body in bodies)
    if not file.exists():
        file.write_bytes(lines)
    assert lines.decode() == file.read_text(encoding="utf-8")


START = lm.GenerationStart(
    model_name="chat", model_version="1", model_digest="ab" * 32, prompt_tokens=3, prompt_text="A b c",
    prompt_token_ids=[4, 5, 6],
)  # fmt: skip
END = lm.TokenLogprob(token_id=2, logprob=-0.125)


def token(token_id: int, text: str, logprob: float = -0.25) -> lm.TokenLogprob:
    return lm.TokenLogprob(token_id=token_id, text=text, logprob=logprob, token_bytes=text.encode())


def prompt_said() -> list[lm.GenerateResponse]:
    second = lm.PositionLogprobs(chosen=token(5, " b", -3.5), top=[token(8, " x", -0.5), token(9, " y", -0.75)])
    third = lm.PositionLogprobs(chosen=token(6, " c", -0.5), top=[token(6, " c", -0.5), token(9, " y", -0.75)])
    return [
        lm.GenerateResponse(start=START),
        lm.GenerateResponse(prompt_logprobs=[second]),
        lm.GenerateResponse(prompt_logprobs=[third]),
    ]


def said(index: int = 0) -> list[lm.GenerateResponse]:
    first = token(7, "Hé")
    return [
        lm.GenerateResponse(
            index=index, text="Hé", token_ids=[7], logprobs=[lm.PositionLogprobs(chosen=first, top=[first, END])]
        ),
        lm.GenerateResponse(index=index, token_ids=[2], logprobs=[lm.PositionLogprobs(chosen=END, top=[END])]),
        lm.GenerateResponse(
            index=index,
            finish_reason=lm.FINISH_REASON_STOP,
            usage=lm.Usage(prompt_tokens=3, cached_tokens=2, output_tokens=2),
            matched_stop="\n" if index else "",
        ),
    ]


def called() -> list[lm.GenerateResponse]:
    return [
        lm.GenerateResponse(text="Let me see."),
        lm.GenerateResponse(tool_calls=[lm.ToolCallDelta(id="call_0", name="weather")]),
        lm.GenerateResponse(tool_calls=[lm.ToolCallDelta(arguments='{"city": ')]),
        lm.GenerateResponse(
            tool_calls=[
                lm.ToolCallDelta(arguments='"Paris"}'),
                lm.ToolCallDelta(index=1, id="call_1", name="time", arguments="{}"),
            ]
        ),
        lm.GenerateResponse(
            finish_reason=lm.FINISH_REASON_TOOL_CALLS, usage=lm.Usage(prompt_tokens=3, output_tokens=9)
        ),
    ]


def choices(form: AnswerForm, messages: list[lm.GenerateResponse]) -> Choices:
    made = Choices(1, form)
    for message in messages:
        made.add(0, message)
    made.check_ended()
    return made


def whole(envelope: Bodies, form: AnswerForm, messages: list[lm.GenerateResponse]) -> dict[str, Any]:
    made = choices(form, messages)
    return envelope.whole(made.all, made.usage())


def chunks(envelope: Bodies, form: AnswerForm, messages: list[lm.GenerateResponse]) -> list[Any]:
    made = Choices(1, form)
    bodies = [chunk for message in messages for choice in made.add(0, message) for chunk in envelope.chunks(choice)]
    return [*bodies, envelope.usage_chunk(made.all[0], made.usage())]


CHAT = ChatBodies("chatcmpl-1", 1700000000, "chat")
TEXT = TextBodies("cmpl-1", 1700000000, "chat")


def test_chat_bodies() -> None:
    two = [*prompt_said(), *said(0), *said(1)]

    assert_golden(
        "chat_completion.jsonl",
        [
            whole(CHAT, AnswerForm(num_choices=2, logprobs=2, prompt_logprobs=1), two),
            whole(CHAT, AnswerForm(), [*prompt_said(), *called()]),
            whole(CHAT, AnswerForm(one_call=True), [*prompt_said(), *called()[1:]]),
        ],
    )
    assert_golden("chat_completion_chunks.jsonl", chunks(CHAT, AnswerForm(num_choices=2, logprobs=2), two))
    assert_golden("chat_completion_chunks_tools.jsonl", chunks(CHAT, AnswerForm(), [*prompt_said(), *called()]))


def test_text_bodies() -> None:
    two = [*prompt_said(), *said(0), *said(1)]
    echoed = AnswerForm(num_choices=2, logprobs=1, echo=True, prompt_logprobs=2)

    assert_golden(
        "text_completion.jsonl",
        [whole(TEXT, AnswerForm(num_choices=2, logprobs=2), two), whole(TEXT, echoed, two)],
    )
    assert_golden("text_completion_chunks.jsonl", chunks(TEXT, AnswerForm(logprobs=2), [*prompt_said(), *said()]))
    assert_golden("text_completion_chunks_echo.jsonl", chunks(TEXT, echoed, two))


@pytest.mark.parametrize("envelope", [CHAT, TEXT])
def test_chunks_of_a_choice_join_to_the_whole(envelope: Bodies) -> None:
    form = AnswerForm(num_choices=2, logprobs=2, echo=envelope is TEXT)
    messages = [*prompt_said(), *said(1), *said(0)]

    joined: dict[int, str] = {0: "", 1: ""}
    for chunk in chunks(envelope, form, messages)[:-1]:
        (entry,) = chunk["choices"]
        joined[entry["index"]] += entry.get("text", "") or entry.get("delta", {}).get("content", "")

    entries = whole(envelope, form, messages)["choices"]
    assert [joined[0], joined[1]] == [entry.get("text") or entry["message"]["content"] for entry in entries]


def test_bodies_without_logprobs_and_digest() -> None:
    end = lm.GenerateResponse(text="x", finish_reason=lm.FINISH_REASON_LENGTH)

    body = whole(CHAT, AnswerForm(), [end])

    assert "system_fingerprint" not in body
    assert body["choices"][0]["logprobs"] is None
    assert body["choices"][0]["finish_reason"] == "length"
    assert "prompt_logprobs" not in body
