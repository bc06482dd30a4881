"""Turns the results of steps into outputs: text, the reason an output ends, counts and times.

One entry per unfinished generation. Knows neither blocks nor plans.
"""

from __future__ import annotations

from typing import Protocol

from predictor.llm.detokenizer import Detokenizer
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


class OutputProcessor:
    """Give every sequence to `start`, each of its results to `advance`, and its end to `forget`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._detokenizers: dict[int, Detokenizer] = {}

    def start(self, sequence: Sequence) -> GenerationOutput | None:
        """Prepare for the results of `sequence`.

        A generation that is continued takes up the text where its tokens so far leave it. If they already end the
        output (only the last message of the broken stream was lost), the returned output says so and there is
        nothing to run.
        """
        request = sequence.request
        if not isinstance(request, GenerationRequest):
            return None
        detokenizer = Detokenizer(self._vocabulary.id_to_bytes, request.stop)
        for num_tokens, token_id in enumerate(request.continue_from, start=1):
            self._push(request, detokenizer, token_id)
            finish_reason = self._finish_reason(request, detokenizer, token_id, num_tokens)
            if finish_reason is not None:
                usage = Usage(sequence.num_prompt_tokens, 0, 0)
                return GenerationOutput(
                    request.request_id, (), "", usage, finish_reason=finish_reason, timings=Timings(0.0, 0.0, 0.0)
                )
        self._detokenizers[sequence.sequence_id] = detokenizer
        return None

    def forget(self, sequence: Sequence) -> None:
        """Drop what is kept for `sequence`. A second call does nothing."""
        self._detokenizers.pop(sequence.sequence_id, None)

    def advance(self, sequence: Sequence, result: ChunkResult, now: float) -> EngineOutput | None:
        """What `result`, which the sequence has taken over, means to the caller; None while a score is incomplete."""
        if sequence.first_result_at is None:
            sequence.first_result_at = now
        if isinstance(sequence.request, GenerationRequest):
            return self._advance_generation(sequence, sequence.request, result, now)
        if len(sequence.scores) < len(sequence.targets):
            return None
        return ScoreOutput(
            sequence.request.request_id, tuple(sequence.scores), _usage(sequence), _timings(sequence, now)
        )

    def _advance_generation(
        self, sequence: Sequence, request: GenerationRequest, result: ChunkResult, now: float
    ) -> GenerationOutput:
        detokenizer = self._detokenizers[sequence.sequence_id]
        token_id = sequence.token_ids[-1]
        text = self._push(request, detokenizer, token_id)
        finish_reason = self._finish_reason(request, detokenizer, token_id, sequence.num_output_tokens)
        if finish_reason is not None and detokenizer.matched_stop is None:
            text += detokenizer.flush()
        return GenerationOutput(
            request_id=request.request_id,
            token_ids=(token_id,),
            text=text,
            usage=_usage(sequence),
            logprobs=() if result.logprobs is None else (result.logprobs,),
            finish_reason=finish_reason,
            matched_stop=detokenizer.matched_stop,
            timings=None if finish_reason is None else _timings(sequence, now),
        )

    def _push(self, request: GenerationRequest, detokenizer: Detokenizer, token_id: int) -> str:
        """Text of a token; a stop token has none, even where its bytes are ordinary text."""
        return "" if token_id in request.stop_token_ids else detokenizer.push(token_id)

    def _finish_reason(
        self, request: GenerationRequest, detokenizer: Detokenizer, token_id: int, num_output_tokens: int
    ) -> FinishReason | None:
        is_eos = token_id in self._vocabulary.eos_ids and not request.ignore_eos
        if is_eos or token_id in request.stop_token_ids or detokenizer.matched_stop is not None:
            return FinishReason.STOP
        return FinishReason.LENGTH if num_output_tokens >= request.max_tokens else None


def _usage(sequence: Sequence) -> Usage:
    return Usage(sequence.num_prompt_tokens, sequence.num_cached_tokens, sequence.num_generated_tokens)


def _timings(sequence: Sequence, now: float) -> Timings:
    scheduled_at = now if sequence.scheduled_at is None else sequence.scheduled_at
    first_result_at = now if sequence.first_result_at is None else sequence.first_result_at
    return Timings(
        queue_s=scheduled_at - sequence.arrived_at,
        first_token_s=first_result_at - sequence.arrived_at,
        total_s=now - sequence.arrived_at,
    )
