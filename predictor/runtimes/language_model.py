"""What a runtime offers beyond arrays when its model is a language model: tokens in, tokens and text out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from predictor.llm.inspection import Inspection
from predictor.llm.outputs import EngineStats, GenerationOutput, ScoreOutput
from predictor.llm.sequence import GenerationRequest, ScoreRequest
from predictor.runtimes.base import Runtime
from predictor.runtimes.generation import GenerationOptions
from predictor.runtimes.observations import GenerationObservations


@dataclass(frozen=True, slots=True)
class LanguageModelDescription:
    """What a caller must know to prepare prompts. Texts are empty where the model has none.

    max_context_tokens: longest prompt and output together, in tokens.
    """

    architecture: str
    max_context_tokens: int
    vocab_size: int
    chat_template: str
    bos_token: str
    eos_token: str
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KvCacheDescription:
    """The keys and values that the engine has room for: `num_blocks` of `block_size` tokens each."""

    num_blocks: int
    block_size: int
    size_bytes: int
    dtype: str
    enable_prefix_caching: bool

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.block_size


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """state: a value of `EngineState`. inspection: None when no engine is ready."""

    state: str
    pid: int | None
    kv_cache_bytes: int
    inspection: Inspection | None


@runtime_checkable
class LanguageModelRuntime(Runtime, Protocol):
    """One loaded language model."""

    @property
    def description(self) -> LanguageModelDescription:
        """Valid once `load` has returned."""
        ...

    @property
    def kv_cache(self) -> KvCacheDescription:
        """As of the engine's last start. Valid once `load` has returned."""
        ...

    @property
    def observations(self) -> GenerationObservations:
        """What the generations so far took."""
        ...

    def stats(self) -> EngineStats:
        """The engine as of its last step."""
        ...

    async def describe_engine(self, timeout_s: float) -> EngineDescription:
        """A look inside. Raises DeadlineExceeded when the engine is silent, Unavailable when it dies meanwhile."""
        ...

    async def encode_prompt(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt, with the begin-of-text token in front where the model wants one.

        Special tokens that are written out are recognised. Raises PromptTooLong or InvalidInput.
        """
        ...

    async def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a text that follows another: nothing is put in front."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token; none for special tokens. May be a part of a character."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens, special ones written out. InvalidInput for an id outside the vocabulary."""
        ...

    async def make_request(
        self,
        prompt_token_ids: tuple[int, ...],
        options: GenerationOptions,
        *,
        continue_from: tuple[int, ...] = (),
        priority: int = 0,
        cache_salt: str = "",
    ) -> GenerationRequest:
        """The request for `generate`, with a seed drawn and the longest output filled in where they were open.

        Raises InvalidInput for a guide that cannot be.
        """
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationOutput, None]:
        """Outputs as they come; the last has a finish_reason. Closing the generator frees what the request holds.

        Raises InvalidInput, PromptTooLong, Overloaded or ModelNotReady before the first output; Unavailable later.
        """
        ...

    async def score(self, request: ScoreRequest) -> ScoreOutput:
        """Log-probabilities of the request's targets. Raises as `generate` does."""
        ...
