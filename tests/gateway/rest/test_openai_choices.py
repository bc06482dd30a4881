"""Which choice a message belongs to, when a choice may begin, and what counts once."""

from __future__ import annotations

import pytest

from gateway.rest.openai_choices import Choices
from gateway.rest.openai_requests import AnswerForm
from mesh.errors import Internal, InvalidInput
from mesh.v1 import language_model_pb2 as lm

START = lm.GenerateResponse(
    start=lm.GenerationStart(prompt_tokens=3, prompt_text="a b c", prompt_token_ids=[1, 2, 3])
)  # fmt: skip
ONE = lm.PositionLogprobs(chosen=lm.TokenLogprob(text=" b", token_bytes=b" b"))


def token(index: int) -> lm.GenerateResponse:
    return lm.GenerateResponse(index=index, text="x", token_ids=[9])


def end(index: int, output_tokens: int = 2) -> lm.GenerateResponse:
    usage = lm.Usage(prompt_tokens=3, cached_tokens=index, output_tokens=output_tokens)
    return lm.GenerateResponse(index=index, finish_reason=lm.FINISH_REASON_STOP, usage=usage)


def told(choices: Choices, number: int, message: lm.GenerateResponse) -> list[int]:
    return [choice.index for choice in choices.add(number, message)]


def test_choices_of_a_prompt_stand_together() -> None:
    choices = Choices(2, AnswerForm(num_choices=3))

    assert told(choices, 1, START) == [3, 4, 5]
    assert told(choices, 1, token(2)) == [5]
    assert told(choices, 0, START) == [0, 1, 2]
    assert told(choices, 0, token(0)) == [0]
    assert [choice.text for choice in choices.all] == ["x", "", "", "", "", "x"]


def test_choices_wait_for_the_prompt_that_they_begin_with() -> None:
    choices = Choices(1, AnswerForm(num_choices=2, logprobs=0, echo=True))

    assert told(choices, 0, START) == []
    assert told(choices, 0, token(1)) == []
    assert told(choices, 0, lm.GenerateResponse(prompt_logprobs=[ONE])) == []
    assert told(choices, 0, lm.GenerateResponse(prompt_logprobs=[ONE])) == [0, 1]
    assert choices.all[1].text == "x"
    assert told(choices, 0, token(1)) == [1]


def test_first_outputs_first_token_ends_the_wait() -> None:
    choices = Choices(1, AnswerForm(num_choices=2, logprobs=0, echo=True))
    choices.add(0, START)

    assert told(choices, 0, token(0)) == [0, 1]


def test_prompt_counts_once_and_every_output_for_itself() -> None:
    choices = Choices(2, AnswerForm(num_choices=2))
    for number in range(2):
        for message in (START, end(1, 5), end(0, 4)):
            choices.add(number, message)

    choices.check_ended()
    assert choices.usage() == {
        "prompt_tokens": 6,
        "completion_tokens": 18,
        "total_tokens": 24,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_output_that_nobody_asked_for_is_the_meshs_fault() -> None:
    choices = Choices(1, AnswerForm(num_choices=2))
    for index in (2, -1):
        with pytest.raises(Internal, match=f"output {index}; 2 were asked for"):
            choices.add(0, token(index))


def test_output_without_an_end_is_the_meshs_fault() -> None:
    choices = Choices(1, AnswerForm(num_choices=2))
    choices.add(0, end(0))

    with pytest.raises(Internal, match="choice 1"):
        choices.check_ended()


def test_log_probabilities_that_nobody_asked_for_are_not_told() -> None:
    message = lm.GenerateResponse(text=" b", token_ids=[2], logprobs=[ONE])
    choices = Choices(1, AnswerForm())
    choices.add(0, message)

    assert choices.all[0].logprobs == []


def test_end_of_text_has_a_place_beside_an_echo_only() -> None:
    special = lm.GenerateResponse(token_ids=[2], logprobs=[lm.PositionLogprobs(chosen=lm.TokenLogprob(token_id=2))])
    for echo, count in ((False, 0), (True, 1)):
        choices = Choices(1, AnswerForm(logprobs=0, echo=echo))
        choices.add(0, special)

        assert len(choices.all[0].logprobs) == count


def test_calls_after_the_first_are_dropped_where_one_was_asked_for() -> None:
    message = lm.GenerateResponse(tool_calls=[lm.ToolCallDelta(index=0, id="a"), lm.ToolCallDelta(index=1, id="b")])
    for one_call, ids in ((False, ["a", "b"]), (True, ["a"])):
        choices = Choices(1, AnswerForm(one_call=one_call))
        choices.add(0, message)

        assert [call.id for call in choices.all[0].tool_calls] == ids


def test_log_probabilities_that_every_choice_repeats_are_bounded() -> None:
    start = lm.GenerateResponse(start=lm.GenerationStart(prompt_tokens=5000))
    for form, field in (
        (AnswerForm(num_choices=10, prompt_logprobs=20), "prompt_logprobs"),
        (AnswerForm(num_choices=10, logprobs=20, echo=True), "logprobs"),
    ):
        with pytest.raises(InvalidInput, match="5000 prompt tokens with 21 log-probabilities each") as raised:
            Choices(1, form).add(0, start)
        assert raised.value.field == field
    with pytest.raises(InvalidInput, match="10000 prompt tokens"):
        choices = Choices(2, AnswerForm(num_choices=5, prompt_logprobs=20))
        for number in range(2):
            choices.add(number, start)
    Choices(1, AnswerForm(num_choices=10, logprobs=20)).add(0, start)
    Choices(1, AnswerForm(num_choices=9, prompt_logprobs=20)).add(0, start)
