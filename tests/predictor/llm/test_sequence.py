"""A sequence knows how far it is, and which of its positions are still wanted."""

from __future__ import annotations

from predictor.llm.sequence import ScoreRequest, Sequence, output_seed
from predictor.llm.step import SamplingParams
from tests.predictor.llm.engines import generation


def test_a_generation_counts_what_it_was_given_and_what_it_made() -> None:
    sequence = Sequence(0, generation(prompt=(1, 2, 3), max_tokens=10, continue_from=(4, 5)), 0.0)

    sequence.token_ids.append(6)

    assert sequence.token_ids == [1, 2, 3, 4, 5, 6]
    assert sequence.num_prompt_tokens == 3
    assert sequence.num_output_tokens == 3
    assert sequence.num_generated_tokens == 1
    assert sequence.max_new_tokens == 7
    assert sequence.first_needed_position == 5
    assert sequence.score_targets(0, 6) == ()


def test_a_score_runs_all_targets_but_the_last_and_wants_them_from_the_last_prefix_token_on() -> None:
    sequence = Sequence(0, ScoreRequest("s", (1, 2, 3), (4, 5, 6)), 0.0)

    assert sequence.token_ids == [1, 2, 3, 4, 5]
    assert sequence.max_new_tokens == 0
    assert sequence.first_needed_position == 2
    assert sequence.score_targets(0, 2) == ()
    assert sequence.score_targets(0, 5) == (-1, -1, 4, 5, 6)
    assert sequence.score_targets(2, 4) == (4, 5)


def test_a_score_that_starts_over_wants_only_what_is_missing() -> None:
    sequence = Sequence(0, ScoreRequest("s", (1, 2, 3), (4, 5, 6)), 0.0)
    sequence.num_scored = 1

    assert sequence.first_needed_position == 3
    assert sequence.score_targets(0, 5) == (-1, -1, -1, 5, 6)


def test_prompt_logprobs_are_wanted_of_all_tokens_but_the_first_and_of_the_first_output_only() -> None:
    request = generation(prompt=(1, 2, 3), max_tokens=4, n=2, num_prompt_logprobs=5)

    first, second = (Sequence(index, request, 0.0, index=index) for index in range(2))

    assert (first.targets, first.num_score_logprobs, first.first_needed_position) == ((2, 3), 5, 0)
    assert first.score_targets(0, 3) == (2, 3, -1)
    assert (second.targets, second.first_needed_position) == ((), 2)
    assert second.score_targets(0, 3) == ()
    first.num_scored = 1
    assert first.score_targets(0, 2) == (-1, 3)
    first.num_scored = 2
    assert first.score_targets(2, 3) == ()


def test_nothing_is_drawn_where_nothing_is_generated() -> None:
    assert Sequence(0, generation(max_tokens=0, num_prompt_logprobs=0), 0.0).draws() == ()
    assert Sequence(0, ScoreRequest("s", (1, 2), (3,)), 0.0).draws() == ()


def test_what_ends_an_output_is_banned_until_it_has_its_shortest_length() -> None:
    sequence = Sequence(0, generation(min_tokens=2), 0.0, end_ids={7, 5})

    bans = []
    for token_id in (10, 11, 12):
        bans.append(banned(sequence))
        sequence.token_ids.append(token_id)

    assert bans == [(5, 7), (5, 7), ()]


def test_the_last_token_of_a_bad_word_is_banned_where_the_others_stand() -> None:
    words = ((8,), (10, 11), (3, 10, 12), (10, 11, 12))
    sequence = Sequence(0, generation(prompt=(1, 2, 3), bad_words=words), 0.0)

    assert banned(sequence) == (8,)
    sequence.token_ids.append(10)
    assert banned(sequence) == (8, 11)  # the 3 before it is the prompt's
    sequence.token_ids.append(11)
    assert banned(sequence) == (8, 12)


def test_penalties_see_prompt_and_output_and_nobody_pays_for_them_who_has_none() -> None:
    penalized = generation(prompt=(1, 2), sampling=SamplingParams(presence_penalty=0.5), continue_from=(3,))

    (draw,), (plain,) = (Sequence(0, request, 0.0).draws() for request in (penalized, generation()))

    assert (draw.prompt_token_ids, draw.output_token_ids) == ((1, 2), (3,))
    assert (plain.prompt_token_ids, plain.output_token_ids) == ((), ())


def test_draws_behind_a_draft_are_those_that_come_once_it_is_known() -> None:
    request = generation(
        prompt=(1, 2, 10),
        sampling=SamplingParams(presence_penalty=0.5, seed=4),
        min_tokens=3,
        bad_words=((8,), (10, 11), (10, 11, 12), (9, 10, 11, 13)),
        continue_from=(9,),
    )
    sequence, plain = (Sequence(0, request, 0.0, end_ids={5}) for _ in range(2))
    draft = (10, 11, 12, 10)

    draws = sequence.draws(draft)

    assert len(draws) == 5
    for draw, token_id in zip(draws, (*draft, 0), strict=True):
        assert (draw,) == plain.draws()
        plain.token_ids.append(token_id)
    assert [draw.banned for draw in draws] == [(5, 8), (5, 8, 11), (8, 12, 13), (8,), (8, 11)]


def test_each_output_has_a_seed_of_its_own_and_the_first_the_one_of_the_request() -> None:
    seeds = [output_seed(42, index) for index in range(1000)]

    assert seeds[0] == 42
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert len({output_seed(seed, 1) ^ output_seed(seed + 1, 0) for seed in range(100)}) == 100
    (draw,) = Sequence(0, generation(sampling=SamplingParams(seed=42)), 0.0, index=5).draws()
    assert draw.params.seed == seeds[5]


def banned(sequence: Sequence) -> tuple[int, ...]:
    (draw,) = sequence.draws()
    return draw.banned
