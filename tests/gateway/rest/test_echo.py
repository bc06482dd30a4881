"""Where the tokens of an echoed prompt stand: their texts join to the prompt, whatever was special in it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rest.echo import echoed_tokens
from mesh.v1 import language_model_pb2 as lm

SPECIAL = "<|end|>"


def token(octets: bytes) -> lm.TokenLogprob:
    return lm.TokenLogprob(text=octets.decode("utf-8", "replace"), token_bytes=octets)


def echoed(first: str, pieces: list[str | None]) -> list[tuple[str, int]]:
    """`pieces` after a first token; None stands for a special one."""
    text = first + "".join(SPECIAL if piece is None else piece for piece in pieces)
    return echoed_tokens(text, [token((piece or "").encode()) for piece in pieces])


def test_first_token_is_what_the_others_leave_over() -> None:
    assert echoed("a", ["aa", " b"]) == [("a", 0), ("aa", 1), (" b", 3)]
    assert echoed("only", []) == [("only", 0)]
    assert echoed_tokens("", []) == [("", 0)]


def test_special_tokens_are_written_out_where_they_stand() -> None:
    assert echoed("<s>", ["s", None, "and", " so", None]) == [
        ("<s>", 0),
        ("s", 3),
        (SPECIAL, 4),
        ("and", 11),
        (" so", 14),
        (SPECIAL, 17),
    ]


def test_special_tokens_side_by_side_share_their_text() -> None:
    assert echoed("a", [None, None, "b"]) == [("a" + 2 * SPECIAL, 0), ("", 15), ("", 15), ("b", 15)]


def test_parts_of_a_character_stand_where_it_does() -> None:
    octets = "é!".encode()

    told = echoed_tokens("xé!", [token(octets[:1]), token(octets[1:2]), token(octets[2:])])

    assert [offset for _, offset in told] == [0, 1, 1, 2]


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=4), min_size=1, max_size=8))
@settings(deadline=None)
def test_tokens_join_to_the_text_and_begin_where_they_stand(pieces: list[str]) -> None:
    told = echoed(pieces[0], list(pieces[1:]))

    assert [text for text, _ in told] == pieces
    assert [offset for _, offset in told] == [len("".join(pieces[:number])) for number in range(len(pieces))]


@given(st.text(max_size=20), st.lists(st.binary(max_size=3), max_size=8))
@settings(deadline=None)
def test_text_and_tokens_that_do_not_fit_together_do_no_harm(text: str, pieces: list[bytes]) -> None:
    told = echoed_tokens(text, [token(piece) for piece in pieces])

    assert len(told) == len(pieces) + 1
    assert all(0 <= offset <= len(text) + sum(map(len, pieces)) for _, offset in told)
