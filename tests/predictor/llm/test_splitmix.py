"""The finalizer against values that other implementations give, and what it is for: no two words collide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from predictor.llm.splitmix import GOLDEN, WORD, mix


def test_the_sequence_of_seed_0_is_the_published_one() -> None:
    # The first outputs of SplitMix64 from state 0, as in the test vectors of Vigna's splitmix64.c.
    outputs = [mix((index * GOLDEN) & WORD) for index in (1, 2, 3)]

    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@given(st.integers(0, WORD), st.integers(0, WORD))
def test_different_words_stay_different(first: int, second: int) -> None:
    assert (mix(first) == mix(second)) == (first == second)
    assert 0 <= mix(first) <= WORD
