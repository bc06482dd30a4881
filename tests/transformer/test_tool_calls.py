"""Messages of a stream with the calls in their text as calls; the rest of each message stays as it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from itertools import count

import pytest

from mesh.errors import InvalidInput, Unavailable
from mesh.v1 import language_model_pb2 as lm
from transformer.tool_calls import ToolCalling, ToolCallReader
from transformer.tools.declarations import read_tool_use
from transformer.tools.hermes import Hermes

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = '[{"type": "function", "function": {"name": "f"}}]'


def reader() -> ToolCallReader:
    numbers = count(1)
    return ToolCallReader(Hermes(), lambda: f"call_{next(numbers)}")


def read(*responses: lm.GenerateResponse) -> list[lm.GenerateResponse]:
    one = reader()
    for response in responses:
        one.read(response)
    return list(responses)


def test_a_call_comes_as_its_name_and_then_its_arguments() -> None:
    first, second, last = read(
        lm.GenerateResponse(text='Hm. <tool_call>\n{"name": "f", "arguments": {"a"', token_ids=[1]),
        lm.GenerateResponse(text=": 1}}", token_ids=[2]),
        lm.GenerateResponse(text="\n</tool_call>", token_ids=[3], finish_reason=lm.FINISH_REASON_STOP),
    )

    assert first == lm.GenerateResponse(
        text="Hm.", token_ids=[1], tool_calls=[lm.ToolCallDelta(id="call_1", name="f", arguments='{"a"')]
    )
    assert second == lm.GenerateResponse(token_ids=[2], tool_calls=[lm.ToolCallDelta(arguments=": 1}")])
    assert last == lm.GenerateResponse(token_ids=[3], finish_reason=lm.FINISH_REASON_TOOL_CALLS)


def test_several_calls_in_one_message_are_numbered() -> None:
    [response] = read(lm.GenerateResponse(text=f"{CALL}\n{CALL}", finish_reason=lm.FINISH_REASON_STOP))

    assert [(call.index, call.id, call.name, call.arguments) for call in response.tool_calls] == [
        (0, "call_1", "f", '{"a": 1}'),
        (1, "call_2", "f", '{"a": 1}'),
    ]


def test_each_output_is_read_on_its_own() -> None:
    half = len(CALL) // 2
    responses = read(
        lm.GenerateResponse(text=CALL[:half], index=3),
        lm.GenerateResponse(text="Hello.", index=4),
        lm.GenerateResponse(text=CALL[half:], index=3, finish_reason=lm.FINISH_REASON_STOP),
        lm.GenerateResponse(index=4, finish_reason=lm.FINISH_REASON_STOP),
    )

    arguments = "".join(call.arguments for response in responses if response.index == 3 for call in response.tool_calls)
    assert arguments == '{"a": 1}'
    assert [response.text for response in responses] == ["", "Hello.", "", ""]
    assert [response.finish_reason for response in responses[2:]] == [
        lm.FINISH_REASON_TOOL_CALLS,
        lm.FINISH_REASON_STOP,
    ]


@pytest.mark.parametrize(
    ("text", "reason", "told"),
    [
        ("Hello", lm.FINISH_REASON_STOP, lm.FINISH_REASON_STOP),
        (CALL, lm.FINISH_REASON_STOP, lm.FINISH_REASON_TOOL_CALLS),
        (CALL, lm.FINISH_REASON_LENGTH, lm.FINISH_REASON_LENGTH),
        (CALL[:-20], lm.FINISH_REASON_LENGTH, lm.FINISH_REASON_LENGTH),
        (CALL[:-20], lm.FINISH_REASON_STOP, lm.FINISH_REASON_STOP),
        (CALL + CALL[:-20], lm.FINISH_REASON_STOP, lm.FINISH_REASON_TOOL_CALLS),
        (CALL, lm.FINISH_REASON_ABORT, lm.FINISH_REASON_ABORT),
    ],
)
def test_the_reason_is_tool_calls_when_the_output_stopped_and_a_call_is_complete(
    text: str, reason: lm.FinishReason.ValueType, told: lm.FinishReason.ValueType
) -> None:
    [response] = read(lm.GenerateResponse(text=text, finish_reason=reason))

    assert response.finish_reason == told


def test_what_was_held_back_comes_with_the_last_message() -> None:
    first, last = read(
        lm.GenerateResponse(text="a <tool"), lm.GenerateResponse(text="_c", finish_reason=lm.FINISH_REASON_LENGTH)
    )

    assert (first.text, last.text) == ("a", " <tool_c")


def test_nothing_else_of_a_message_changes() -> None:
    response = lm.GenerateResponse(
        start=lm.GenerationStart(seed=1),
        text=CALL,
        token_ids=[1, 2],
        logprobs=[lm.PositionLogprobs(chosen=lm.TokenLogprob(token_id=1, text="<tool_call>"))],
        finish_reason=lm.FINISH_REASON_STOP,
        usage=lm.Usage(output_tokens=2),
        matched_stop="x",
    )
    before = lm.GenerateResponse.FromString(response.SerializeToString())

    read(response)

    for message in (before, response):
        for changed in ("text", "tool_calls", "finish_reason"):
            message.ClearField(changed)  # type: ignore[arg-type]
    assert response == before


def test_an_answer_that_goes_on_amid_a_call_is_read_as_if_it_began_there() -> None:
    [first] = read(lm.GenerateResponse(text=CALL[: CALL.index("1")], token_ids=[1]))
    [rest] = read(lm.GenerateResponse(text=CALL[CALL.index("1") :], finish_reason=lm.FINISH_REASON_STOP))

    assert first.tool_calls[0].arguments == '{"a": '
    assert (rest.text, len(rest.tool_calls)) == ("1}}\n</tool_call>", 0)


def test_ids_of_calls_are_unique() -> None:
    responses = [lm.GenerateResponse(text=CALL, finish_reason=lm.FINISH_REASON_STOP) for _ in range(100)]
    for response in responses:
        ToolCallReader(Hermes()).read(response)

    ids = {response.tool_calls[0].id for response in responses}

    assert len(ids) == 100
    assert all(call_id.startswith("call_") for call_id in ids)


def test_a_request_with_a_guide_of_its_own_is_refused() -> None:
    use = read_tool_use(TOOLS, "auto")
    assert use is not None
    sampling = lm.SamplingParameters(guide=lm.Guide(regex="a"))

    with pytest.raises(InvalidInput, match=r"sampling\.guide and messages\.tools_json both") as caught:
        ToolCalling(Hermes(), use).guide(sampling)

    assert caught.value.field == "sampling.guide"


TEXT = f"Hm.\n{CALL}\n{CALL}"


@pytest.mark.parametrize("num_known", range(1, len(TEXT) + 1))
async def test_an_answer_is_gone_on_with_wherever_it_was_cut(num_known: int) -> None:
    """What a reader told, and what another one tells that goes on, join to what one alone tells."""
    messages = [lm.GenerateResponse(text=char, token_ids=[place]) for place, char in enumerate(TEXT)]
    messages.append(lm.GenerateResponse(token_ids=[len(TEXT)], finish_reason=lm.FINISH_REASON_STOP))
    known = messages[:num_known]
    repeated = lm.GenerateResponse(start=lm.GenerationStart(seed=3), text=TEXT[:num_known], token_ids=range(num_known))

    alone = await all_read(messages)
    first = await all_read(known)
    rest = await all_read([repeated, *messages[num_known:]], range(num_known))

    assert told(first + rest) == told(alone)
    assert rest[0].start.seed == 3
    assert rest[-1].finish_reason == lm.FINISH_REASON_TOOL_CALLS


async def test_a_predictor_that_does_not_repeat_is_not_read() -> None:
    with pytest.raises(Unavailable, match="does not repeat"):
        await all_read([lm.GenerateResponse(text="c", token_ids=[3])], (1, 2))


async def all_read(messages: list[lm.GenerateResponse], known_ids: Sequence[int] = ()) -> list[lm.GenerateResponse]:
    """Through a reader of its own."""

    async def answers() -> AsyncGenerator[lm.GenerateResponse, None]:
        for message in messages:
            copy = lm.GenerateResponse()
            copy.CopyFrom(message)
            yield copy

    use = read_tool_use(TOOLS, "")
    assert use is not None
    return [message async for message in ToolCalling(Hermes(), use).read(answers(), known_ids)]


def told(messages: list[lm.GenerateResponse]) -> tuple[str, list[int], list[tuple[str, bool, str]]]:
    """Text, tokens, and of each call its name, whether it has one id, and its arguments."""
    calls: dict[int, list[lm.ToolCallDelta]] = {}
    for message in messages:
        for delta in message.tool_calls:
            calls.setdefault(delta.index, []).append(delta)
    return (
        "".join(message.text for message in messages),
        [token_id for message in messages for token_id in message.token_ids],
        [
            (
                "".join(delta.name for delta in deltas),
                sum(bool(delta.id) for delta in deltas) == 1,
                "".join(delta.arguments for delta in deltas),
            )
            for _, deltas in sorted(calls.items())
        ],
    )
