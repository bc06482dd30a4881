"""Guesses against a search through the whole text, and the bounds of what a guess may cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from predictor.llm.prompt_lookup import MAX_MATCH, MAX_PLACES, MIN_MATCH, PromptLookup


def slow_proposal(token_ids: list[int], max_tokens: int, trust: int) -> tuple[int, ...]:
    """What followed the longest match among the newest places, the newest of equal ones."""
    places = [
        end
        for end in range(len(token_ids) - 1, MIN_MATCH - 1, -1)
        if token_ids[end - MIN_MATCH : end] == token_ids[-MIN_MATCH:]
    ][:MAX_PLACES]
    lengths = {
        end: max(n for n in range(1, MAX_MATCH + 1) if n <= end and token_ids[end - n : end] == token_ids[-n:])
        for end in places
    }
    if not lengths:
        return ()
    end = max(lengths, key=lambda end: (lengths[end], end))
    guess = list(token_ids[end:])
    while len(guess) < max_tokens:
        guess += token_ids[end:]
    return tuple(guess[: min(max_tokens, max(lengths[end], trust))])


@given(
    st.lists(st.integers(0, 2), max_size=60),
    st.lists(st.integers(1, 60), max_size=10),
    st.integers(1, 9),
    st.integers(0, 9),
)
def test_a_guess_is_what_a_search_through_the_text_finds(
    text: list[int], stops: list[int], max_tokens: int, trust: int
) -> None:
    lookup = PromptLookup()

    for length in [*sorted(stops), len(text)]:
        so_far = text[:length]
        assert lookup.propose(so_far, max_tokens, trust) == slow_proposal(so_far, max_tokens, trust)


def test_a_text_that_does_not_repeat_itself_gives_no_guess() -> None:
    lookup = PromptLookup()

    assert [lookup.propose(list(range(length)), 5, 5) for length in range(20)] == [()] * 20


def test_the_longest_match_counts_and_of_equal_ones_the_newest() -> None:
    assert PromptLookup().propose([1, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3], 2, 2) == (4, 9)
    assert PromptLookup().propose([7, 2, 3, 4, 9, 2, 3, 5, 8, 1, 2, 3], 2, 2) == (5, 8)


def test_a_short_match_is_not_followed_far_without_trust() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]

    assert [len(PromptLookup().propose(text, 5, trust)) for trust in (0, 3, 9)] == [2, 3, 5]
    assert PromptLookup().propose([*text, 3, 4], 5, 0) == (5, 6, 7, 8)


def test_a_text_that_is_all_alike_costs_no_more_than_any_other() -> None:
    class Counted(list[int]):
        num_reads = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def, override]
            self.num_reads += 1
            return super().__getitem__(index)

    lookup = PromptLookup()
    text = Counted([5] * 1000)
    lookup.propose(text, 4, 4)
    text.append(5)
    text.num_reads = 0

    assert lookup.propose(text, 4, 4) == (5, 5, 5, 5)

    assert text.num_reads < 2 * MAX_MATCH * MAX_PLACES
