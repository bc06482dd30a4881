"""The bodies that Anthropic's clients get, against golden files."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rest.anthropic_bodies import MessageBodies
from gateway.rest.output_parts import OutputParts
from mesh.errors import Internal
from mesh.v1 import language_model_pb2 as lm
from tests.gateway.rest.test_openai_chunks import assert_golden

BODIES = MessageBodies("msg_r-1", "chat")
START = lm.GenerateResponse(start=lm.GenerationStart(model_name="chat", prompt_tokens=5))


def end(reason: lm.FinishReason.ValueType, matched_stop: str = "") -> lm.GenerateResponse:
    usage = lm.Usage(prompt_tokens=5, cached_tokens=2, output_tokens=3)
    return lm.GenerateResponse(finish_reason=reason, usage=usage, matched_stop=matched_stop)


def call(index: int, *arguments: str) -> list[lm.GenerateResponse]:
    deltas = [lm.ToolCallDelta(index=index, id=f"call_{index}", name="f")]
    deltas += [lm.ToolCallDelta(index=index, arguments=piece) for piece in arguments]
    return [lm.GenerateResponse(tool_calls=[delta]) for delta in deltas]


ANSWERS = {
    "text": [START, lm.GenerateResponse(text="Hé"), lm.GenerateResponse(text="!"), end(lm.FINISH_REASON_STOP)],
    "stopped": [START, lm.GenerateResponse(text="a"), end(lm.FINISH_REASON_STOP, "\n")],
    "nothing": [START, end(lm.FINISH_REASON_LENGTH)],
    "calls": [
        START,
        lm.GenerateResponse(text="Well: "),
        *call(0, '{"city": ', '"Paris"}'),
        *call(1),
        end(lm.FINISH_REASON_TOOL_CALLS),
    ],
    "cut call": [START, *call(0, '{"city": "Par'), end(lm.FINISH_REASON_LENGTH)],
}


def whole(messages: list[lm.GenerateResponse]) -> Any:
    parts = OutputParts()
    for message in messages:
        list(parts.add(message))
    return BODIES.whole(parts)


def events(messages: list[lm.GenerateResponse]) -> list[Any]:
    parts = OutputParts()
    list(parts.add(messages[0]))
    told = list(BODIES.opening(parts))
    for message in messages[1:]:
        told += [event for change in parts.add(message) for event in BODIES.changed(change)]
    return told + list(BODIES.closing(parts))


def test_whole_messages_are_the_golden_ones() -> None:
    assert_golden("anthropic_message.jsonl", [whole(messages) for messages in ANSWERS.values()])


def test_events_are_the_golden_ones() -> None:
    assert_golden("anthropic_events.jsonl", [event for messages in ANSWERS.values() for event in events(messages)])


@pytest.mark.parametrize("name", ANSWERS)
def test_events_join_to_the_whole(name: str) -> None:
    """Read as the stock client does: a message that blocks are added to, and whose end is filled in."""
    message: dict[str, Any] = {}
    arguments: dict[int, str] = {}
    for event in events(ANSWERS[name]):
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(dict(event["content_block"]))
            case "content_block_delta" if event["delta"]["type"] == "text_delta":
                message["content"][event["index"]]["text"] += event["delta"]["text"]
            case "content_block_delta":
                arguments[event["index"]] = arguments.get(event["index"], "") + event["delta"]["partial_json"]
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    complete = whole(ANSWERS[name])
    for index, text in arguments.items():
        if name != "cut call":
            assert text.replace(" ", "") == str(complete["content"][index]["input"]).replace("'", '"').replace(" ", "")
        message["content"][index]["input"] = complete["content"][index]["input"]

    assert message == complete


def test_arguments_that_were_cut_go_as_far_as_they_go() -> None:
    assert whole(ANSWERS["cut call"])["content"][0]["input"] == {}
    assert whole([START, *call(0, '{"a": 1, "b": '), end(lm.FINISH_REASON_LENGTH)])["content"][0]["input"] == {"a": 1}


@pytest.mark.parametrize("arguments", ["nonsense", "[1]", '"text'])
def test_arguments_that_are_no_object_are_a_fault_of_the_model(arguments: str) -> None:
    with pytest.raises(Internal, match="no JSON object"):
        whole([START, *call(0, arguments), end(lm.FINISH_REASON_TOOL_CALLS)])
