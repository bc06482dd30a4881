"""Stop strings end a text where they begin, however the text is cut, and nothing of them leaks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.llm.stop import StopMatcher

SMALL = st.text("ab", max_size=12)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def up_to_first_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """The obvious reference: read character by character, look at the end of what was read."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


@given(pieces=st.lists(SMALL, max_size=6), stops=STOPS)
def test_text_ends_where_the_first_complete_stop_string_begins(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)

    text = "".join([*(matcher.push(piece) for piece in pieces), matcher.flush()])

    expected, is_stopped = up_to_first_stop("".join(pieces), stops)
    assert text == expected
    assert (matcher.matched is not None) == is_stopped


@given(pieces=st.lists(SMALL, max_size=6), stops=STOPS)
def test_nothing_that_may_begin_a_stop_string_is_let_out_nor_anything_else_held_back(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    out, read = "", ""
    for piece in pieces:
        out += matcher.push(piece)
        read += piece
        if matcher.matched is not None:
            return

        held = read[len(out) :]

        beginnings = {stop[:n] for stop in stops for n in range(1, len(stop))}
        assert held == "" or held in beginnings
        assert all(not read.endswith(b) or len(b) <= len(held) for b in beginnings)


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        (["\n\n"], ["one\n", "\ntwo"], "one"),
        (["\n\n"], ["one\n", "two"], "one\ntwo"),
        (["END"], ["the EN", "EN", "D!"], "the EN"),
        (["abc", "b"], ["abc"], "a"),
        (["c", "abc"], ["abc"], ""),
        (["stop"], ["no sto"], "no sto"),
        ([], ["anything"], "anything"),
    ],
)
def test_examples(stops: list[str], pieces: list[str], expected: str) -> None:
    matcher = StopMatcher(stops)

    assert "".join([*(matcher.push(piece) for piece in pieces), matcher.flush()]) == expected
