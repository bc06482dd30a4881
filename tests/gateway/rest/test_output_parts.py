"""An output cut into parts: whatever comes, the changes tell the parts, and the parts hold what came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest.output_parts import Change, OutputParts, What
from mesh.errors import Internal
from mesh.v1 import language_model_pb2 as lm

STOP = lm.GenerateResponse(finish_reason=lm.FINISH_REASON_STOP, usage=lm.Usage(prompt_tokens=3, output_tokens=2))


def told(parts: OutputParts, *messages: lm.GenerateResponse) -> list[Change]:
    return [change for message in messages for change in parts.add(message)]


def call(index: int, arguments: str, *, is_first: bool = False) -> lm.GenerateResponse:
    delta = lm.ToolCallDelta(index=index, arguments=arguments)
    if is_first:
        delta.id, delta.name = f"call_{index}", "f"
    return lm.GenerateResponse(tool_calls=[delta])


def test_text_before_calls_is_a_part_of_its_own() -> None:
    parts = OutputParts()

    changes = told(
        parts,
        lm.GenerateResponse(start=lm.GenerationStart(prompt_tokens=3)),
        lm.GenerateResponse(text="Let me "),
        lm.GenerateResponse(text="see."),
        call(0, "", is_first=True),
        call(0, '{"a":'),
        call(0, "1}"),
        call(1, "{}", is_first=True),
        STOP,
    )

    assert [(change.what, change.part.index, change.text) for change in changes] == [
        (What.BEGAN, 0, ""),
        (What.GREW, 0, "Let me "),
        (What.GREW, 0, "see."),
        (What.ENDED, 0, ""),
        (What.BEGAN, 1, ""),
        (What.GREW, 1, '{"a":'),
        (What.GREW, 1, "1}"),
        (What.ENDED, 1, ""),
        (What.BEGAN, 2, ""),
        (What.GREW, 2, "{}"),
        (What.ENDED, 2, ""),
    ]
    assert [(part.text, part.call_id, part.name) for part in parts.all] == [
        ("Let me see.", "", ""),
        ('{"a":1}', "call_0", "f"),
        ("{}", "call_1", "f"),
    ]
    parts.check_ended()


def test_only_the_first_call_is_told_when_one_is_wanted() -> None:
    parts = OutputParts(one_call=True)

    told(parts, call(0, "{}", is_first=True), call(1, "{}", is_first=True), STOP)

    assert [part.call_id for part in parts.all] == ["call_0"]


def test_prompt_is_counted_before_the_end() -> None:
    parts = OutputParts()

    told(parts, lm.GenerateResponse(start=lm.GenerationStart(prompt_tokens=7)))

    assert parts.usage.prompt_tokens == 7
    with pytest.raises(Internal, match="before it was complete"):
        parts.check_ended()


def test_another_output_and_a_call_that_has_ended_are_faults_of_the_model() -> None:
    with pytest.raises(Internal, match="output 1"):
        told(OutputParts(), lm.GenerateResponse(index=1, text="a"))
    with pytest.raises(Internal, match="went back to tool call 0"):
        told(OutputParts(), call(0, "{", is_first=True), call(1, "{}", is_first=True), call(0, "}"))


def test_logprobs_come_with_the_text_of_their_token() -> None:
    parts = OutputParts()
    half, whole = (
        lm.PositionLogprobs(chosen=lm.TokenLogprob(token_id=number, token_bytes=b"\xc3")) for number in (1, 2)
    )
    end = lm.PositionLogprobs(chosen=lm.TokenLogprob(token_id=3))

    changes = told(
        parts,
        lm.GenerateResponse(logprobs=[half]),
        lm.GenerateResponse(text="é", logprobs=[whole]),
        lm.GenerateResponse(logprobs=[end]),
        STOP,
    )

    assert [len(change.logprobs) for change in changes if change.what is What.GREW] == [2]
    assert [position.chosen.token_id for position in parts.all[0].logprobs] == [1, 2]


@given(
    st.lists(
        st.one_of(
            st.text(max_size=3).map(lambda text: lm.GenerateResponse(text=text)),
            st.text(max_size=3).map(lambda arguments: ("call", arguments)),
        )
    )
)
def test_changes_tell_the_parts(said: list[lm.GenerateResponse | tuple[str, str]]) -> None:
    """Each part begins, grows and ends once, one after another, and holds what it was told."""
    parts = OutputParts()
    messages = [
        call(number, one[1], is_first=True) if isinstance(one, tuple) else one for number, one in enumerate(said)
    ]

    changes = told(parts, *messages, STOP)

    told_texts: list[str] = []
    open_index = None
    for change in changes:
        if change.what is What.BEGAN:
            assert open_index is None and change.part.index == len(told_texts)
            open_index = change.part.index
            told_texts.append("")
        assert change.part.index == open_index
        told_texts[-1] += change.text
        if change.what is What.ENDED:
            open_index = None
    assert open_index is None
    assert told_texts == [part.text for part in parts.all]
    assert "".join(told_texts) == "".join(one[1] if isinstance(one, tuple) else one.text for one in said)
