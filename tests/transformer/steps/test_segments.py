"""Marks find contents, or say that they cannot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.steps.prompt import Message, Segment
from transformer.steps.segments import Marks, Span, choose_marks, find_spans, mark, split

MARKS = Marks("\U000f0000", "\U000f0001")


@given(st.lists(st.tuples(st.text(max_size=8), st.text(min_size=1, max_size=8)), max_size=5))
def test_contents_are_found_whatever_stands_around_them(turns: list[tuple[str, str]]) -> None:
    marks = choose_marks(text for turn in turns for text in turn)
    assert marks is not None
    plain = "".join(head + content for head, content in turns)
    marked = "".join(head + marks.opening + content + marks.closing for head, content in turns)

    spans = find_spans(marked, plain, marks)

    assert spans is not None
    assert [plain[span.start : span.end] for span in spans] == [content for _, content in turns]
    segments = split(plain, spans)
    assert "".join(segment.text for segment in segments) == plain
    assert [segment.text for segment in segments if segment.explainable] == [content for _, content in turns]


@pytest.mark.parametrize(
    ("marked", "plain"),
    [
        ("a[b]", "ab!"),  # the text differs
        ("a[b", "ab"),  # a mark was cut off
        ("a]b[", "ab"),
        ("a[[b]]", "ab"),
    ],
)
def test_a_rendering_that_the_marks_changed_tells_nothing(marked: str, plain: str) -> None:
    marked = marked.replace("[", MARKS.opening).replace("]", MARKS.closing)

    assert find_spans(marked, plain, MARKS) is None


def test_a_repeated_content_is_found_twice() -> None:
    one = f"{MARKS.opening}x{MARKS.closing}"

    assert find_spans(f"{one}-{one}", "x-x", MARKS) == [Span(0, 1), Span(2, 3)]


def test_marks_stand_inside_of_outer_white_space() -> None:
    assert mark(Message("user", " a b\n"), MARKS).content == f" {MARKS.opening}a b{MARKS.closing}\n"
    assert mark(Message("user", " \n"), MARKS).content == " \n"


def test_marks_are_never_characters_of_the_texts() -> None:
    taken = [chr(0xF0000), chr(0xF1001), chr(0xF2FFF)]

    assert choose_marks(taken) == Marks(chr(0xF3000), chr(0xF3001))
    everything = "".join(chr(base) for base in (*range(0xF0000, 0xFF000, 0x1000), *range(0x100000, 0x10F000, 0x1000)))
    assert choose_marks([everything]) is None


def test_segments_are_never_empty() -> None:
    assert split("ab", [Span(0, 1), Span(1, 2)]) == [Segment("a", True), Segment("b", True)]
    assert split("", []) == []
