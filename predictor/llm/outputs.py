"""What an engine reports for its requests, and about itself. Plain values that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mesh.errors import MeshError
from predictor.llm.sequence import FinishReason
from predictor.llm.step import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request.

    num_cached_tokens: prompt tokens whose keys and values came from the prefix cache.
    num_output_tokens: tokens that this engine generated, end-of-text included, `continue_from` not.
    """

    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds since the request arrived: until its first computed step, its first result, its last."""

    queue_s: float
    first_token_s: float
    total_s: float


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

    def followed_by(self, later: GenerationOutput) -> GenerationOutput:
        """Both as one; they are about the same index."""
        return replace(
            later,
            token_ids=self.token_ids + later.token_ids,
            text=self.text + later.text,
            logprobs=self.logprobs + later.logprobs,
            prompt_logprobs=self.prompt_logprobs + later.prompt_logprobs,
        )


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
    """One look at the engine. Counters count from the start of the engine process.

    num_prefix_queries, num_prefix_hits: prompt tokens looked up in and found in the prefix cache.
    num_prompt_tokens: prompt tokens computed, hits not included.
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
    num_generation_tokens: int = 0
    num_last_step_tokens: int = 0
    last_step_s: float = 0.0
    num_finished: dict[FinishReason, int] = field(default_factory=dict)

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV blocks that running sequences hold, 0 to 1."""
        return 1.0 - self.num_free_blocks / self.num_blocks if self.num_blocks else 0.0
