"""What an engine reports for its requests, and about itself. Plain values that travel between processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import TypeVar

from mesh.errors import MeshError
from predictor.llm.sequence import FinishReason, RejectionReason
from predictor.llm.step import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request.

    num_cached_tokens: prompt tokens whose keys and values came from the prefix cache.
    num_output_tokens: tokens that this engine generated, end-of-text included, `continue_from` not.
    num_preemptions: how often it was pushed back to make room.
    """

    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int
    num_preemptions: int = 0

    def __reduce__(self) -> tuple[type[Usage], tuple[object, ...]]:
        # A dataclass pickles field by field, in Python: 7 times as slow, and one of these crosses for each token.
        return Usage, _usage_fields(self)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds since the request arrived: until its first computed step, its first result, its last."""

    queue_s: float
    first_token_s: float
    total_s: float

    @property
    def prefill_s(self) -> float:
        """From the first computed step to the first result."""
        return self.first_token_s - self.queue_s

    @property
    def decode_s(self) -> float:
        """From the first result to the last, time spent preempted included."""
        return self.total_s - self.first_token_s

    @property
    def inference_s(self) -> float:
        return self.total_s - self.queue_s


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """What is new about one output of a request since the last time.

    token_ids: new tokens, end-of-text included.
    text: new text, whole characters only; may lag behind the tokens while a character or a stop string is undecided.
    index: which of the request's outputs this is about.
    logprobs: one entry per new token when they were asked for, else empty.
    prompt_logprobs: the next ones of the prompt's tokens when they were asked for, from the second token on.
    finish_reason, timings: set in the last one about this index only.
    matched_stop: the stop string that ended the text, in the last one.
    first_token_s: seconds from the request's arrival, in the one that has the first token.
    gaps_s: seconds between tokens that came and those before them, which the first token does not have. Tokens of one
        step come together and have one gap, as in vLLM.
    """

    request_id: str
    token_ids: tuple[int, ...]
    text: str
    usage: Usage
    index: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    matched_stop: str | None = None
    timings: Timings | None = None
    first_token_s: float | None = None
    gaps_s: tuple[float, ...] = ()

    def __reduce__(self) -> tuple[type[GenerationOutput], tuple[object, ...]]:
        return GenerationOutput, _output_fields(self)  # as Usage does

    def followed_by(self, later: GenerationOutput) -> GenerationOutput:
        """Both as one; they are about the same index."""
        return replace(
            later,
            token_ids=self.token_ids + later.token_ids,
            text=self.text + later.text,
            logprobs=self.logprobs + later.logprobs,
            prompt_logprobs=self.prompt_logprobs + later.prompt_logprobs,
            first_token_s=later.first_token_s if self.first_token_s is None else self.first_token_s,
            gaps_s=self.gaps_s + later.gaps_s,
        )


_usage_fields = attrgetter(*(one.name for one in fields(Usage)))
_output_fields = attrgetter(*(one.name for one in fields(GenerationOutput)))


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    """Natural-log probability of each target token of a ScoreRequest."""

    request_id: str
    logprobs: tuple[float, ...]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class FailedOutput:
    """The request ended with an error: it was refused, or its step failed."""

    request_id: str
    error: MeshError


EngineOutput = GenerationOutput | ScoreOutput | FailedOutput


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One look at the engine. Counters count from the start of the engine process, or of those before it as well.

    num_prefix_queries, num_prefix_hits: prompt tokens looked up in and found in the prefix cache.
    num_prompt_tokens: of the prompts that are computed; num_cached_prompt_tokens of them came from the prefix cache.
    num_drafts: drafts that were verified, of num_draft_tokens tokens in all; num_accepted_by_position counts the
        accepted ones by their place in the draft.
    num_finished, num_rejected: outputs that ended, and requests that were refused for want of room.
    num_deaths: engine processes that ended or hung.
    max_num_seqs: sequences that may run at the same time; 0 before the first step.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_waiting_tokens: int = 0
    num_blocks: int = 0
    num_free_blocks: int = 0
    num_steps: int = 0
    num_preemptions: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    num_prompt_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_deaths: int = 0
    num_last_step_tokens: int = 0
    last_step_s: float = 0.0
    max_num_seqs: int = 0
    num_accepted_by_position: Mapping[int, int] = field(default_factory=dict)
    num_finished: Mapping[FinishReason, int] = field(default_factory=dict)
    num_rejected: Mapping[RejectionReason, int] = field(default_factory=dict)

    def __reduce__(self) -> tuple[type[EngineStats], tuple[object, ...]]:
        return EngineStats, _stats_fields(self)  # as Usage does

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV blocks that running sequences hold, 0 to 1."""
        return 1.0 - self.num_free_blocks / self.num_blocks if self.num_blocks else 0.0

    @property
    def num_accepted_tokens(self) -> int:
        """Tokens of drafts that were right."""
        return sum(self.num_accepted_by_position.values())

    def after(self, earlier: EngineStats) -> EngineStats:
        """This look, with counters that go on from those of `earlier`."""
        return replace(
            self,
            num_accepted_by_position=_sum(self.num_accepted_by_position, earlier.num_accepted_by_position),
            num_finished=_sum(self.num_finished, earlier.num_finished),
            num_rejected=_sum(self.num_rejected, earlier.num_rejected),
            **{name: getattr(self, name) + getattr(earlier, name) for name in _COUNTERS},
        )


_stats_fields = attrgetter(*(one.name for one in fields(EngineStats)))
_COUNTERS = (
    "num_steps",
    "num_preemptions",
    "num_prefix_queries",
    "num_prefix_hits",
    "num_prompt_tokens",
    "num_cached_prompt_tokens",
    "num_generation_tokens",
    "num_drafts",
    "num_draft_tokens",
    "num_deaths",
)

_Key = TypeVar("_Key")


def _sum(counts: Mapping[_Key, int], others: Mapping[_Key, int]) -> dict[_Key, int]:
    total = Counter(counts)
    total.update(others)
    return dict(total)
