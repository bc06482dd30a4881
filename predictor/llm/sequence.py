"""Requests as they are asked, and a sequence: the tokens of one request and how far they are computed.

Requests are plain values; `predictor.llm.limits` says which are acceptable. A `Sequence` changes only in the hands of
the scheduler. Nothing here knows text, blocks' memory, or torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from predictor.llm.step import SamplingParams


class FinishReason(Enum):
    """Why a generation ended. The values are the names on the wire."""

    STOP = "stop"  # an end-of-text token, a stop token or a stop string
    LENGTH = "length"  # max_tokens
    ABORT = "abort"  # the caller went away
    ERROR = "error"  # the step that computed it failed


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Continue a prompt.

    request_id: unique among the requests that an engine holds.
    max_tokens: longest output, `continue_from` included.
    stop: texts that end the output and are never part of it.
    stop_token_ids: tokens that end the output, beside the model's end-of-text tokens.
    continue_from: output tokens that the caller already has, from this engine or another. Generation goes on after
        them as if it had never been interrupted; only what is new is reported.
    priority: higher runs first.
    cache_salt: requests share cached prefixes only with requests of the same salt.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    continue_from: tuple[int, ...] = ()
    priority: int = 0
    cache_salt: str = ""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Log-probability of each target token, given the prefix and the target tokens before it."""

    request_id: str
    prefix_token_ids: tuple[int, ...]
    target_token_ids: tuple[int, ...]
    priority: int = 0
    cache_salt: str = ""


Request = GenerationRequest | ScoreRequest


class SequenceStatus(Enum):
    WAITING = "waiting"  # holds no blocks; new, or preempted
    RUNNING = "running"  # holds blocks for all its known tokens
    FINISHED = "finished"  # holds nothing, for ever


class Sequence:
    """One request on its way through the engine.

    token_ids: every token that is known and has to be run: prompt and output so far, or prefix and all targets but
        the last. A generation grows by one token each time it is computed to its end.
    num_computed_tokens: how many of them, from the start, have keys and values in the cache.
    block_table: KV blocks in order; empty unless running.
    block_hashes: chained hashes of the full blocks of token_ids, as far as they were needed; survive preemption.
    """

    def __init__(self, sequence_id: int, request: Request, arrived_at: float) -> None:
        self.sequence_id = sequence_id
        self.request = request
        self.arrived_at = arrived_at
        self.scheduled_at: float | None = None
        self.first_result_at: float | None = None
        self.status = SequenceStatus.WAITING
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.block_table: list[int] = []
        self.block_hashes: list[bytes] = []
        self.scores: list[float] = []
        self.sampling: SamplingParams | None = None
        self.targets: tuple[int, ...] = ()
        if isinstance(request, GenerationRequest):
            self.sampling = request.sampling
            self.token_ids = [*request.prompt_token_ids, *request.continue_from]
            self.num_prompt_tokens = len(request.prompt_token_ids)
        else:
            self.targets = request.target_token_ids
            self.token_ids = [*request.prefix_token_ids, *request.target_token_ids[:-1]]
            self.num_prompt_tokens = len(request.prefix_token_ids)
        self._num_given_tokens = len(self.token_ids)

    @property
    def rank(self) -> tuple[int, int]:
        """Sort key: who comes first. Higher priority, then earlier arrival."""
        return (-self.request.priority, self.sequence_id)

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_output_tokens(self) -> int:
        """Tokens of a generation beyond its prompt, `continue_from` included."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_generated_tokens(self) -> int:
        """Tokens that this engine generated."""
        return len(self.token_ids) - self._num_given_tokens

    @property
    def max_new_tokens(self) -> int:
        """By how many tokens the sequence can still grow."""
        return self.request.max_tokens - self.num_output_tokens if isinstance(self.request, GenerationRequest) else 0

    @property
    def first_needed_position(self) -> int:
        """The first position whose result is still wanted: a prefix hit may cover what is before it, and no more."""
        if self.sampling is not None:
            return len(self.token_ids) - 1
        return self.num_prompt_tokens - 1 + len(self.scores)

    def score_targets(self, start: int, end: int) -> tuple[int, ...]:
        """For each position in start … end-1 the token that follows it, or -1; empty when none is wanted."""
        first = self.first_needed_position
        if self.sampling is not None or end <= first:
            return ()
        offset = self.num_prompt_tokens - 1
        return tuple(self.targets[i - offset] if i >= first else -1 for i in range(start, end))
