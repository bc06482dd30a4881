"""Two answers are equal when all that a client sees of them is; if not, the first difference is named."""

from __future__ import annotations

import dataclasses

import pytest

from bench.chaos.answer import Answer, Growing, Output, difference

OUTPUT = Output("a cat", (1, 2, 3), (-0.5, -1.25), "stop", (("get_weather", '{"city": "Paris"}'),))
ANSWER = Answer((OUTPUT, OUTPUT), 7, 6)


def changed(**fields: object) -> Answer:
    return Answer((OUTPUT, dataclasses.replace(OUTPUT, **fields)), 7, 6)  # type: ignore[arg-type]


def test_an_answer_equals_itself_and_one_whose_numbers_were_only_written_otherwise() -> None:
    assert difference(ANSWER, ANSWER) is None
    assert difference(ANSWER, changed(numbers=(-0.5 + 1e-9, -1.25))) is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (changed(text="a car"), "output 1: text differ at 4 of 5: 't' expected, 'r' came"),
        (changed(text="a ca"), "output 1: text differ at 4 of 5: 't' expected, '' came"),
        (changed(text="a catt"), "output 1: text differ at 5 of 5: '' expected, 't' came"),
        (changed(token_ids=(1, 2, 2, 3)), "output 1: token_ids differ at 2 of 3: (3,) expected, (2, 3) came"),
        (changed(numbers=(-0.5, -1.26)), "output 1: numbers differ at 1 of 2: (-1.25,) expected, (-1.26,) came"),
        (changed(numbers=(-0.5,)), "output 1: numbers differ at 1 of 2: (-1.25,) expected, () came"),
        (changed(finish_reason="length"), "output 1: finish_reason differ at 0 of 4: 'stop' expected, 'length' came"),
        (changed(calls=()), "output 1: calls differ at 0 of 1"),
        (Answer((OUTPUT,), 7, 6), "2 outputs expected, 1 came"),
        (Answer((OUTPUT, OUTPUT), 8, 6), "prompt_tokens 7 expected, 8 came"),
        (Answer((OUTPUT, OUTPUT), 7, 12), "output_tokens 6 expected, 12 came"),
    ],
)
def test_each_difference_is_named_with_its_place(other: Answer, words: str) -> None:
    found = difference(ANSWER, other)

    assert found is not None and found.startswith(words)


def test_parts_of_tool_calls_join_in_the_order_of_the_calls() -> None:
    growing = Growing()
    growing.add_call(1, "second", "")
    growing.add_call(0, "first", '{"a"')
    growing.add_call(0, "", ": 1}")

    assert growing.whole().calls == (("first", '{"a": 1}'), ("second", ""))
