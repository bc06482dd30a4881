"""Turns the results of steps into outputs: text, the reason an output ends, counts and times.

One entry per unfinished output: its detokenizer, and its guide if it has one. Knows neither blocks nor plans.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from mesh.errors import InvalidInput
from predictor.llm.detokenizer import Detokenizer
from predictor.llm.guide import Guide, GuideMaker, GuideSpec
from predictor.llm.outputs import EngineOutput, GenerationOutput, ScoreOutput, Timings, Usage
from predictor.llm.sequence import FinishReason, GenerationRequest, Sequence
from predictor.llm.step import ChunkResult


class Vocabulary(Protocol):
    """What the engine asks of a tokenizer."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an output."""
        ...

    def id_to_bytes(self, token_id: int, /) -> bytes:
        """Raw bytes of a token; none for special tokens, which have no text."""
        ...


class NoGuides:
    """Stands in where no grammar library does."""

    def start(self, spec: GuideSpec, /) -> Guide:
        raise InvalidInput("this engine holds no output to a guide", field="guide")


@dataclass(slots=True)
class _Entry:
    """What is kept for one unfinished sequence. scores: of a ScoreRequest, as far as they are known."""

    detokenizer: Detokenizer
    guide: Guide | None = None
    scores: list[float] = field(default_factory=list)


class OutputProcessor:
    """Give every sequence to `start`, each of its results to `advance`, and its end to `forget`."""

    def __init__(self, vocabulary: Vocabulary, guides: GuideMaker) -> None:
        self._vocabulary = vocabulary
        self._guides = guides
        self._entries: dict[int, _Entry] = {}

    def start(self, sequence: Sequence) -> GenerationOutput | None:
        """Prepare for the results of `sequence`.

        A generation that is continued takes up the text where its tokens so far leave it. If they already end the
        output (only the last message of the broken stream was lost), the returned output says so and there is
        nothing to run. Raises InvalidInput for a guide that cannot be, or that the tokens so far do not follow.
        """
        request = sequence.request
        if not isinstance(request, GenerationRequest):
            self._entries[sequence.sequence_id] = _Entry(Detokenizer(self._vocabulary.id_to_bytes))
            return None
        guide = None if request.guide is None else self._guides.start(request.guide)
        entry = _Entry(Detokenizer(self._vocabulary.id_to_bytes, request.stop), guide)
        reason = FinishReason.LENGTH if not request.max_tokens and sequence.is_scored else None
        for num_tokens, token_id in enumerate(request.continue_from, start=1):
            _follow(entry, token_id)
            self._push(request, entry, token_id)
            reason = reason or self._finish_reason(request, entry, token_id, num_tokens)
        if reason is not None:
            usage = Usage(sequence.num_prompt_tokens, 0, 0)
            return GenerationOutput(
                request.request_id, (), "", usage, sequence.index, finish_reason=reason, timings=Timings(0.0, 0.0, 0.0)
            )
        self._entries[sequence.sequence_id] = entry
        sequence.allowed = _allowed(entry)
        return None

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept for `sequence`. A second call does nothing."""
        self._entries.pop(sequence.sequence_id, None)

    def advance(self, sequence: Sequence, result: ChunkResult, now: float) -> EngineOutput | None:
        """What `result`, which the sequence has taken over, means to the caller; None while a score is incomplete.

        Raises what a guide raises when it cannot go on; then the output is lost.
        """
        if sequence.first_result_at is None:
            sequence.first_result_at = now
        entry, request = self._entries[sequence.sequence_id], sequence.request
        if isinstance(request, GenerationRequest):
            return self._advance_generation(sequence, request, entry, result, now)
        entry.scores += [score.logprob for score in result.scores]
        if not sequence.is_scored:
            return None
        return ScoreOutput(request.request_id, tuple(entry.scores), _usage(sequence), _timings(sequence, now))

    def _advance_generation(
        self, sequence: Sequence, request: GenerationRequest, entry: _Entry, result: ChunkResult, now: float
    ) -> GenerationOutput:
        text, reason, num_taken = "", None, 0
        first_token_s, gaps_s = _token_times(sequence, now) if result.token_ids else (None, ())
        num_before = sequence.num_output_tokens - len(result.token_ids)
        for num_taken, token_id in enumerate(result.token_ids, start=1):
            if entry.guide is not None:
                entry.guide.accept(token_id)
            text += self._push(request, entry, token_id)
            reason = self._finish_reason(request, entry, token_id, num_before + num_taken)
            if reason is not None:
                break
        # What a step brought beyond the end was never said: nobody reads, counts or pays for it.
        del sequence.token_ids[sequence.num_prompt_tokens + num_before + num_taken :]
        if not result.token_ids:
            reason = FinishReason.LENGTH if not request.max_tokens and sequence.is_scored else None
        elif reason is None:
            sequence.allowed = _allowed(entry)
        elif entry.detokenizer.matched_stop is None:
            text += entry.detokenizer.flush()
        return GenerationOutput(
            request_id=request.request_id,
            token_ids=result.token_ids[:num_taken],
            text=text,
            usage=_usage(sequence),
            index=sequence.index,
            logprobs=result.logprobs[:num_taken],
            prompt_logprobs=result.scores,
            finish_reason=reason,
            matched_stop=entry.detokenizer.matched_stop,
            timings=None if reason is None else _timings(sequence, now),
            first_token_s=first_token_s,
            gaps_s=gaps_s,
        )

    def _push(self, request: GenerationRequest, entry: _Entry, token_id: int) -> str:
        """Text of a token; a stop token has none, even where its bytes are ordinary text."""
        return "" if token_id in request.stop_token_ids else entry.detokenizer.push(token_id)

    def _finish_reason(
        self, request: GenerationRequest, entry: _Entry, token_id: int, num_output_tokens: int
    ) -> FinishReason | None:
        is_eos = token_id in self._vocabulary.eos_ids and not request.ignore_eos
        if is_eos or token_id in request.stop_token_ids or entry.detokenizer.matched_stop is not None:
            return FinishReason.STOP
        if entry.guide is not None and entry.guide.is_complete:
            return FinishReason.STOP
        return FinishReason.LENGTH if num_output_tokens >= request.max_tokens else None


def _follow(entry: _Entry, token_id: int) -> None:
    """Move the guide on by a token that the caller brings."""
    if entry.guide is None:
        return
    octet, bit = divmod(token_id, 8)
    allowed = entry.guide.allowed()
    if octet >= len(allowed) or not allowed[octet] >> bit & 1:
        raise InvalidInput(
            f"continue_from has token {token_id} where the guide does not allow it", field="continue_from"
        )
    entry.guide.accept(token_id)


def _allowed(entry: _Entry) -> bytes | None:
    return None if entry.guide is None else entry.guide.allowed()


def _usage(sequence: Sequence) -> Usage:
    return Usage(
        sequence.num_prompt_tokens,
        sequence.num_cached_tokens,
        sequence.num_generated_tokens,
        sequence.num_preemptions,
    )


def _token_times(sequence: Sequence, now: float) -> tuple[float | None, tuple[float, ...]]:
    """For tokens that came now: the seconds they took, if the first one is among them, else the gap before them."""
    before, sequence.last_token_at = sequence.last_token_at, now
    return (now - sequence.arrived_at, ()) if before is None else (None, (now - before,))


def _timings(sequence: Sequence, now: float) -> Timings:
    scheduled_at = now if sequence.scheduled_at is None else sequence.scheduled_at
    first_result_at = now if sequence.first_result_at is None else sequence.first_result_at
    return Timings(
        queue_s=scheduled_at - sequence.arrived_at,
        first_token_s=first_result_at - sequence.arrived_at,
        total_s=now - sequence.arrived_at,
    )
