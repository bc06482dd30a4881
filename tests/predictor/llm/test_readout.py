"""Which rows of a step become logits, and that every result finds its chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from predictor.llm import sampler
from predictor.llm.readout import LOGIT_ROWS, logit_rows, read_results
from predictor.llm.step import Chunk, Draw, SamplingParams

GREEDY = (Draw(SamplingParams(temperature=0.0)),)
VOCAB_SIZE = 5000


class Rows:
    """Logits of row r: token r is the likeliest."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, rows: Sequence[int]) -> torch.Tensor:
        self.asked.append(tuple(rows))
        return torch.nn.functional.one_hot(torch.tensor(rows), VOCAB_SIZE).float()


def test_only_the_last_row_of_a_drawing_chunk_is_read() -> None:
    rows = Rows()
    chunks = [Chunk(7, (1, 2, 3), 0, (0,), GREEDY), Chunk(8, (1, 2), 0, (1,)), Chunk(9, (1,), 0, (2,), GREEDY)]

    results = read_results(chunks, [0, 3, 5], rows, sampler)

    assert rows.asked == [(2, 5)]
    assert logit_rows(chunks, [0, 3, 5]) == [2, 5]
    assert [(result.sequence_id, result.token_ids) for result in results] == [(7, (2,)), (8, ()), (9, (5,))]


def test_each_draw_reads_a_row_at_the_end_of_its_chunk_and_has_the_noise_of_its_position() -> None:
    rows = Rows()
    drawn = Draw(SamplingParams(temperature=50.0, seed=3, num_logprobs=0))
    drafting = Chunk(7, (1, 2, 3, 4), 10, (0,), (drawn,) * 3)
    alone = [Chunk(i, (1,), position - 1, (1,), (drawn,)) for i, position in enumerate((12, 13, 14))]

    (several, single) = read_results([drafting, Chunk(8, (1,), 0, (2,), GREEDY)], [5, 9], rows, sampler)

    assert rows.asked == [(6, 7, 8, 9)]
    assert logit_rows([drafting, Chunk(8, (1,), 0, (2,), GREEDY)], [5, 9]) == [6, 7, 8, 9]
    assert single.token_ids == (9,)
    each = [read_results([chunk], [row], rows, sampler)[0] for row, chunk in zip((6, 7, 8), alone, strict=True)]
    assert several.token_ids == tuple(token_id for result in each for token_id in result.token_ids)
    assert several.logprobs == tuple(entry for result in each for entry in result.logprobs)
    assert len(set(several.token_ids)) == len(several.logprobs) == 3


def test_only_wanted_scores_are_read() -> None:
    rows = Rows()
    chunks = [Chunk(7, (1,), 0, (0,)), Chunk(8, (1, 2, 3), 0, (1,), score_targets=(11, -1, 13), num_score_logprobs=1)]

    _, scored = read_results(chunks, [4, 10], rows, sampler)

    assert rows.asked == [(10, 12)]
    assert logit_rows(chunks, [4, 10]) == [10, 12]
    assert [(score.token_id, score.top[0][0]) for score in scored.scores] == [(11, 10), (13, 12)]


def test_logits_are_asked_for_in_bounded_numbers() -> None:
    rows = Rows()
    count = 2 * LOGIT_ROWS + 3
    chunks = [Chunk(i, (1,), 0, (i,), GREEDY) for i in range(count)]

    results = read_results(chunks, list(range(count)), rows, sampler)

    assert [len(asked) for asked in rows.asked] == [LOGIT_ROWS, LOGIT_ROWS, 3]
    assert [result.token_ids for result in results] == [(i,) for i in range(count)]
