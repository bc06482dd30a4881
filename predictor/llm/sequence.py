"""Requests as they are asked, and a sequence: the tokens of one request and how far they are computed.

Requests are plain values; `predictor.llm.limits` says which are acceptable. A `Sequence` changes only in the hands of
the scheduler. Nothing here knows text, blocks' memory, or torch.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from predictor.llm.drafter import Drafter
from predictor.llm.guide import GuideSpec
from predictor.llm.splitmix import GOLDEN, WORD, mix
from predictor.llm.step import Draw, SamplingParams


class FinishReason(Enum):
    """Why a generation ended. The values are the names on the wire."""

    STOP = "stop"  # an end-of-text token, a stop token or a stop string
    LENGTH = "length"  # max_tokens
    ABORT = "abort"  # the caller went away
    ERROR = "error"  # the step that computed it failed


class RejectionReason(Enum):
    """Why a request was refused before it could wait. The values are vLLM's labels."""

    REQUESTS = "max_num_queued_reqs"
    TOKENS = "max_num_queued_tokens"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Continue a prompt.

    request_id: unique among the requests that an engine holds.
    max_tokens: longest output, `continue_from` included; 0 generates nothing and takes num_prompt_logprobs.
    stop: texts that end the output and are never part of it.
    stop_token_ids: tokens that end the output, beside the model's end-of-text tokens.
    min_tokens: length before which no token may end the output.
    bad_words: token sequences that never stand in the output.
    guide: what the text of the output must look like.
    n: outputs `sample_index` … `sample_index` + n - 1 are generated from one prompt. Output i draws its noise from
        `output_seed(seed, i)`.
    num_prompt_logprobs: how many of the likeliest tokens to report beside each prompt token but the first; -1 reports
        no logprobs of the prompt.
    continue_from: output tokens that the caller already has, from this engine or another; takes n 1. Generation goes on
        after them as if it had never been interrupted; only what is new is reported.
    priority: higher runs first.
    cache_salt, adapter: requests share cached prefixes only with requests of the same salt and adapter.
    """

    request_id: str
    prompt_token_ids: tuple[int, ...]
    sampling: SamplingParams
    max_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    guide: GuideSpec | None = None
    n: int = 1
    sample_index: int = 0
    num_prompt_logprobs: int = -1
    continue_from: tuple[int, ...] = ()
    priority: int = 0
    cache_salt: str = ""
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Log-probability of each target token, given the prefix and the target tokens before it."""

    request_id: str
    prefix_token_ids: tuple[int, ...]
    target_token_ids: tuple[int, ...]
    priority: int = 0
    cache_salt: str = ""
    adapter: str = ""


Request = GenerationRequest | ScoreRequest


class SequenceStatus(Enum):
    WAITING = "waiting"  # holds no blocks; new, or preempted
    RUNNING = "running"  # holds blocks for all its known tokens
    FINISHED = "finished"  # holds nothing, for ever


class Sequence:
    """One output of a request, or one score, on its way through the engine.

    index: which of the request's outputs.
    rank: sort key, set by the scheduler: who comes first.
    token_ids: every token that is known and has to be run: prompt and output so far, or prefix and all targets but
        the last. A generation grows by one token each time it is computed to its end.
    targets: tokens whose log-probabilities are wanted: those of a score, or a prompt's but the first.
    num_scored: how many of them are known.
    num_computed_tokens: how many of token_ids, from the start, have keys and values in the cache.
    allowed: bitmap of the tokens that a guide allows next (see `Guide.allowed`); None without a guide.
    block_table: KV blocks in order; empty unless running.
    block_hashes: chained hashes of the full blocks of token_ids, as far as they were needed; survive preemption.
    drafter: drafts the next tokens; survives preemption.
    """

    def __init__(
        self, sequence_id: int, request: Request, arrived_at: float, *, index: int = 0, end_ids: Collection[int] = ()
    ) -> None:
        """end_ids: tokens that end the output, which is not to happen before `min_tokens`."""
        self.sequence_id = sequence_id
        self.request = request
        self.arrived_at = arrived_at
        self.index = index
        self.rank = (arrived_at, sequence_id)
        self.scheduled_at: float | None = None
        self.first_result_at: float | None = None
        self.last_token_at: float | None = None
        self.status = SequenceStatus.WAITING
        self.num_computed_tokens = 0
        self.num_cached_tokens = 0
        self.num_preemptions = 0
        self.num_scored = 0
        self.allowed: bytes | None = None
        self.block_table: list[int] = []
        self.block_hashes: list[bytes] = []
        self.drafter = Drafter()
        self.targets: tuple[int, ...] = ()
        self.num_score_logprobs = 0
        if isinstance(request, GenerationRequest):
            self._sampling = replace(request.sampling, seed=output_seed(request.sampling.seed, index))
            self._end_ids = tuple(sorted(end_ids))
            self.token_ids = [*request.prompt_token_ids, *request.continue_from]
            self.num_prompt_tokens = len(request.prompt_token_ids)
            self._first_scored_position = 0
            # The outputs of a request share its prompt; the first one brings the log-probabilities.
            if request.num_prompt_logprobs >= 0 and index == request.sample_index:
                self.targets = request.prompt_token_ids[1:]
                self.num_score_logprobs = request.num_prompt_logprobs
        else:
            self.targets = request.target_token_ids
            self.token_ids = [*request.prefix_token_ids, *request.target_token_ids[:-1]]
            self.num_prompt_tokens = len(request.prefix_token_ids)
            self._first_scored_position = self.num_prompt_tokens - 1
        self._num_given_tokens = len(self.token_ids)

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
    def is_scored(self) -> bool:
        """True when no log-probability of a target is missing."""
        return self.num_scored == len(self.targets)

    @property
    def first_needed_position(self) -> int:
        """The first position whose result is still wanted: a prefix hit may cover what is before it, and no more."""
        return len(self.token_ids) - 1 if self.is_scored else self._first_scored_position + self.num_scored

    def score_targets(self, start: int, end: int) -> tuple[int, ...]:
        """For each position in start … end-1 the token that follows it, or -1; empty when none is wanted."""
        first, origin = self.first_needed_position, self._first_scored_position
        last = origin + len(self.targets) - 1
        if self.is_scored or end <= first or start > last:
            return ()
        return tuple(self.targets[i - origin] if first <= i <= last else -1 for i in range(start, end))

    def draws(self, draft: tuple[int, ...] = ()) -> tuple[Draw, ...]:
        """How to choose the token after the last known one and, if that is the draft's, the one after it, and so on.

        One more than `draft` has tokens; none when there is nothing to choose. Each is as if the draft before it were
        known.
        """
        request = self.request
        if not isinstance(request, GenerationRequest) or not request.max_tokens:
            return ()
        return tuple(self._draw(request, draft[:length]) for length in range(len(draft) + 1))

    def _draw(self, request: GenerationRequest, draft: tuple[int, ...]) -> Draw:
        """How to choose the token after the known ones and `draft`."""
        banned = self._end_ids if self.num_output_tokens + len(draft) < request.min_tokens else ()
        if request.bad_words:
            banned += tuple(word[-1] for word in request.bad_words if self._would_complete(word, draft))
        if not self._sampling.has_penalties:
            return Draw(self._sampling, banned=banned, allowed=self.allowed)
        output = (*self.token_ids[self.num_prompt_tokens :], *draft)
        return Draw(self._sampling, request.prompt_token_ids, output, banned, self.allowed)

    def _would_complete(self, word: tuple[int, ...], draft: tuple[int, ...]) -> bool:
        """Whether the output and `draft` end with all tokens of `word` but the last."""
        num_before = len(word) - 1
        if num_before > self.num_output_tokens + len(draft):
            return False
        end = (*self.token_ids[max(0, len(self.token_ids) - num_before) :], *draft)
        return end[len(end) - num_before :] == word[:-1]


def output_seed(seed: int, index: int) -> int:
    """Seed of output `index` of a request: the first has the request's own, the others lie far from it and each other.

    SplitMix64, `index` steps from `seed`.
    """
    return mix((seed + index * GOLDEN) & WORD) if index else seed
