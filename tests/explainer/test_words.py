"""Words keep their places, and leaving some out keeps the rest as a person would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explainer.words import Segment, WordPrompt


def words_of(text: str) -> WordPrompt:
    return WordPrompt([Segment(text, explainable=True)])


@given(st.lists(st.tuples(st.text(alphabet="ab \n\t世👩", max_size=12), st.booleans()), max_size=5))
def test_words_stand_where_they_say_and_all_of_them_give_the_prompt(parts: list[tuple[str, bool]]) -> None:
    prompt = WordPrompt([Segment(text, explainable) for text, explainable in parts])

    assert prompt.text == "".join(text for text, _ in parts)
    assert [prompt.text[word.start : word.start + word.length] for word in prompt.words] == [
        word.text for word in prompt.words
    ]
    assert prompt.with_words([True] * len(prompt.words)) == prompt.text


@given(st.text(alphabet="ab \n", max_size=30), st.data())
def test_what_stays_is_the_words_that_are_present(text: str, data: st.DataObject) -> None:
    prompt = words_of(text)
    present = data.draw(st.lists(st.booleans(), min_size=len(prompt.words), max_size=len(prompt.words)))

    kept = [word.text for word, stays in zip(prompt.words, present, strict=True) if stays]

    assert prompt.with_words(present).split() == kept


@pytest.mark.parametrize(
    ("text", "present", "expected"),
    [
        ("What is the capital", [1, 1, 0, 1], "What is capital"),
        ("What is the capital", [0, 1, 1, 1], "is the capital"),
        ("What is the capital", [1, 1, 1, 0], "What is the"),
        ("What is the capital", [0, 0, 0, 0], ""),
        ("  padded text \n", [0, 1], "  text \n"),
        ("first line\n\nsecond line", [1, 0, 1, 1], "first\n\nsecond line"),
        ("first line\n\nsecond line", [1, 1, 0, 1], "first line\n\nline"),
        ("a b c", [1, 0, 1], "a c"),
    ],
)
def test_gaps_close_and_paragraphs_stay_apart(text: str, present: list[int], expected: str) -> None:
    assert words_of(text).with_words([bool(flag) for flag in present]) == expected


def test_what_the_template_added_is_never_left_out() -> None:
    prompt = WordPrompt([Segment("<user> Be brief\n", False), Segment("Why now?", True), Segment("<end>", False)])

    assert [word.text for word in prompt.words] == ["Why", "now?"]
    assert prompt.with_words([False, False]) == "<user> Be brief\n<end>"
    assert prompt.words[1].start == len("<user> Be brief\nWhy ")


def test_positions_are_code_points() -> None:
    prompt = words_of("👩‍👩‍👧 is a 家族")

    assert (prompt.words[-1].start, prompt.words[-1].length) == (11, 2)
