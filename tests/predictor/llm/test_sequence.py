"""A sequence knows how far it is, and which of its positions are still wanted."""

from __future__ import annotations

from predictor.llm.sequence import ScoreRequest, Sequence
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
    sequence.scores = [-1.0]

    assert sequence.first_needed_position == 3
    assert sequence.score_targets(0, 5) == (-1, -1, -1, 5, 6)


def test_rank_is_priority_then_arrival() -> None:
    requests = [generation(priority=priority) for priority in (0, 1, 0)]
    sequences = [Sequence(index, request, 0.0) for index, request in enumerate(requests)]

    assert [s.sequence_id for s in sorted(sequences, key=lambda s: s.rank)] == [1, 0, 2]
