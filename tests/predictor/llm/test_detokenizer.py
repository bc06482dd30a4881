"""Pieces of text join to what decoding the whole gives, and no piece has half a character."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.llm.detokenizer import Detokenizer

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces; pieces may be empty, as special tokens are."""
    bounds = sorted(min(c, len(data)) for c in cuts)
    return [data[a:b] for a, b in zip([0, *bounds], [*bounds, len(data)], strict=True)]


def pieces_of(tokens: list[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    detokenizer = Detokenizer(tokens.__getitem__, stop)
    return [*(detokenizer.push(token_id) for token_id in range(len(tokens))), detokenizer.flush()]


@given(text=ANY_TEXT, cuts=st.lists(st.integers(0, 160), max_size=60))
@settings(max_examples=1000, deadline=None)
def test_text_survives_any_cut_into_byte_tokens(text: str, cuts: list[int]) -> None:
    pieces = pieces_of(cut(text.encode(), cuts))

    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(data=st.binary(max_size=40), cuts=st.lists(st.integers(0, 40), max_size=40))
@settings(max_examples=1000, deadline=None)
def test_invalid_bytes_come_out_as_decoding_the_whole_would_put_them(data: bytes, cuts: list[int]) -> None:
    pieces = pieces_of(cut(data, cuts))

    assert "".join(pieces) == data.decode("utf-8", errors="replace")


def test_a_character_comes_out_with_its_last_byte() -> None:
    tokens = [bytes([byte]) for byte in "é👍".encode()]

    assert pieces_of(tokens) == ["", "é", "", "", "", "👍", ""]


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    assert pieces_of(["👍".encode()[:3]]) == ["", "\ufffd"]


def test_a_stop_string_of_many_bytes_ends_the_text() -> None:
    tokens = [bytes([byte]) for byte in "so 👍👎 no".encode()]

    pieces = pieces_of(tokens, stop=("👍👎",))

    assert "".join(pieces) == "so "


def test_the_stop_string_that_matched_is_known() -> None:
    detokenizer = Detokenizer([b"a", b"\n\n"].__getitem__, ("\n\n", "x"))

    text = detokenizer.push(0) + detokenizer.push(1) + detokenizer.flush()

    assert (text, detokenizer.matched_stop) == ("a", "\n\n")
