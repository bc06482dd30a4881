"""From the hidden rows of a step to its results: which rows become logits, what is drawn and scored from them.

Shared by the backends, so that they answer alike. Knows no model: logits come from a function of row numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from predictor.llm.step import Chunk, ChunkResult, Draw, TokenLogprobs

# Logits are computed for so many rows at once: memory stays bounded however long a scored prompt is, and oneDNN gives a
# row the same bits in any batch up to this size.
LOGIT_ROWS = 32

# float32 [rows, vocab_size], in whatever holds a backend's numbers.
Logits = TypeVar("Logits")
LogitsIn = TypeVar("LogitsIn", contravariant=True)

# Numbers of rows of the step → their logits, at most LOGIT_ROWS of them. Good until the next call.
LogitsOf = Callable[[Sequence[int]], Logits]

_T = TypeVar("_T")


class Sampler(Protocol[LogitsIn]):
    """Chooses tokens and tells log-probabilities. The module `predictor.llm.sampler` is the reference."""

    def sample(self, logits: LogitsIn, draws: Sequence[Draw], positions: Sequence[int]) -> list[int]: ...

    def logprobs(
        self, logits: LogitsIn, token_ids: Sequence[int], num_top: Sequence[int]
    ) -> list[TokenLogprobs | None]: ...


def read_results(
    chunks: Sequence[Chunk], first_rows: Sequence[int], logits_of: LogitsOf[Logits], sampler: Sampler[Logits]
) -> list[ChunkResult]:
    """The results of a step, in the order of its chunks; first_rows says where each chunk starts."""
    sampled = _sample(chunks, first_rows, logits_of, sampler)
    scores = _score(chunks, first_rows, logits_of, sampler)
    results = []
    for i, chunk in enumerate(chunks):
        token_ids, logprobs = zip(*sampled.get(i, ()), strict=True) if chunk.draws else ((), ())
        known = tuple(entry for entry in logprobs if entry is not None)
        results.append(ChunkResult(chunk.sequence_id, token_ids, known, tuple(scores.get(i, ()))))
    return results


def logit_rows(chunks: Sequence[Chunk], first_rows: Sequence[int]) -> list[int]:
    """The rows of a step whose logits its results need, rising."""
    rows: set[int] = set()
    for chunk, first in zip(chunks, first_rows, strict=True):
        end = first + len(chunk.token_ids)
        rows.update(range(end - len(chunk.draws), end))
        rows.update(first + offset for offset, target in enumerate(chunk.score_targets) if target != -1)
    return sorted(rows)


def _sample(
    chunks: Sequence[Chunk], first_rows: Sequence[int], logits_of: LogitsOf[Logits], sampler: Sampler[Logits]
) -> dict[int, list[tuple[int, TokenLogprobs | None]]]:
    """The chosen tokens of each chunk that asks for any, by the chunk's place in the plan."""
    wanted = [
        (i, first_rows[i] + offset, draw, chunk.start_position + offset + 1)
        for i, chunk in enumerate(chunks)
        for offset, draw in enumerate(chunk.draws, start=len(chunk.token_ids) - len(chunk.draws))
    ]
    results: dict[int, list[tuple[int, TokenLogprobs | None]]] = {}
    for batch in _batches(wanted):
        places, rows, draws, positions = zip(*batch, strict=True)
        logits = logits_of(rows)
        token_ids = sampler.sample(logits, draws, positions)
        logprobs = sampler.logprobs(logits, token_ids, [draw.params.num_logprobs for draw in draws])
        for place, token_id, entry in zip(places, token_ids, logprobs, strict=True):
            results.setdefault(place, []).append((token_id, entry))
    return results


def _score(
    chunks: Sequence[Chunk], first_rows: Sequence[int], logits_of: LogitsOf[Logits], sampler: Sampler[Logits]
) -> dict[int, list[TokenLogprobs]]:
    """Log-probabilities of the wanted targets of each chunk that has any, by the chunk's place in the plan."""
    wanted = [
        (i, first_rows[i] + offset, target, chunk.num_score_logprobs)
        for i, chunk in enumerate(chunks)
        for offset, target in enumerate(chunk.score_targets)
        if target != -1
    ]
    results: dict[int, list[TokenLogprobs]] = {}
    for batch in _batches(wanted):
        places, rows, targets, num_top = zip(*batch, strict=True)
        for place, score in zip(places, sampler.logprobs(logits_of(rows), targets, num_top), strict=True):
            assert score is not None
            results.setdefault(place, []).append(score)
    return results


def _batches(wanted: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (wanted[start : start + LOGIT_ROWS] for start in range(0, len(wanted), LOGIT_ROWS))
