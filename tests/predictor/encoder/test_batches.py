"""Texts in batches: every text once, none padded, the budget kept, equal lengths together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from predictor.encoder.batches import Encoding, Run, batches_of


def encodings(lengths: list[int]) -> list[Encoding]:
    """Texts whose tokens tell which text and place they are: id 1000 * text + place."""
    return [
        Encoding(1000 * index + np.arange(length), np.full(length, index % 2)) for index, length in enumerate(lengths)
    ]


def test_texts_of_equal_length_are_one_run_and_the_budget_holds() -> None:
    batches = list(batches_of(encodings([3, 1, 3, 2, 9]), max_tokens=9))

    assert [batch.indices for batch in batches] == [(1, 3, 0, 2), (4,)]
    assert batches[0].runs == (Run(0, 1, 1), Run(1, 1, 2), Run(3, 2, 3))
    assert batches[0].ids.tolist() == [1000, 3000, 3001, 0, 1, 2, 2000, 2001, 2002]
    assert batches[0].positions.tolist() == [0, 0, 1, 0, 1, 2, 0, 1, 2]
    assert batches[0].type_ids.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_text_above_the_budget_is_a_batch_of_its_own() -> None:
    batches = list(batches_of(encodings([2, 20, 1]), max_tokens=4))

    assert [batch.indices for batch in batches] == [(2, 0), (1,)]


def test_nothing_makes_no_batch() -> None:
    assert list(batches_of([], max_tokens=4)) == []


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 50))
def test_every_token_is_in_one_batch_in_the_place_that_the_runs_say(lengths: list[int], max_tokens: int) -> None:
    texts = encodings(lengths)

    batches = list(batches_of(texts, max_tokens))

    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(texts)))
    for batch in batches:
        assert len(batch.ids) <= max_tokens or len(batch.indices) == 1
        indices = iter(batch.indices)
        end = 0
        for run in batch.runs:
            assert run.start == end
            for start in range(run.start, run.start + run.num_tokens, run.length):
                text = texts[next(indices)]
                assert batch.ids[start : start + run.length].tolist() == text.ids.tolist()
            end = run.start + run.num_tokens
        assert end == len(batch.ids) == len(batch.type_ids) == len(batch.positions)
        assert len({run.length for run in batch.runs}) == len(batch.runs)
