"""A language model that needs no weights: a token is a byte of text, and the output repeats the prompt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from mesh.errors import PromptTooLong
from predictor.llm.outputs import EngineStats, GenerationOutput, ScoreOutput, Timings, Usage
from predictor.llm.sequence import FinishReason, GenerationRequest, ScoreRequest
from predictor.llm.step import TokenLogprobs
from predictor.runtimes.generation import GenerationOptions, bad_word_tokens, build_request
from predictor.runtimes.language_model import EngineDescription, KvCacheDescription, LanguageModelDescription
from predictor.runtimes.observations import GenerationObservations
from tests.predictor.fake_runtime import IdentityRuntime

MAX_CONTEXT_TOKENS = 64
DRAWN_SEED = 4242


class EchoLanguageModel(IdentityRuntime):
    """Token 0 ends an output and has no text. `requests` are all that were generated; `num_open` run now."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[GenerationRequest] = []
        self.scored: list[ScoreRequest] = []
        self.num_open = 0
        self.observations = GenerationObservations()
        self.description = LanguageModelDescription(
            architecture="echo",
            max_context_tokens=MAX_CONTEXT_TOKENS,
            vocab_size=256,
            chat_template="{{ messages }}",
            bos_token="",
            eos_token="<end>",
            eos_token_ids=(0,),
        )

    @property
    def kv_cache(self) -> KvCacheDescription:
        return KvCacheDescription(10, 16, 4096, "float32", True)

    async def describe_engine(self, timeout_s: float) -> EngineDescription:
        return EngineDescription("dead", None, 4096, None)

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=self.num_open,
            num_blocks=10,
            num_free_blocks=10 - self.num_open,
            num_finished={FinishReason.LENGTH: len(self.requests)},
        )

    async def encode_prompt(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    async def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode("latin-1")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id else b""

    async def make_request(
        self,
        prompt_token_ids: tuple[int, ...],
        options: GenerationOptions,
        *,
        continue_from: tuple[int, ...] = (),
        priority: int = 0,
        cache_salt: str = "",
    ) -> GenerationRequest:
        return build_request(
            "request",
            prompt_token_ids,
            options,
            max_context_tokens=MAX_CONTEXT_TOKENS,
            draw_seed=lambda: DRAWN_SEED,
            bad_words=bad_word_tokens(options.bad_words, lambda text: list(text.encode())),
            continue_from=continue_from,
            priority=priority,
            cache_salt=cache_salt,
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationOutput, None]:
        prompt = request.prompt_token_ids
        if len(prompt) + request.max_tokens > MAX_CONTEXT_TOKENS:
            raise PromptTooLong(f"prompt has {len(prompt)} tokens; the model takes {MAX_CONTEXT_TOKENS}")
        self.requests.append(request)
        self.num_open += 1
        try:
            for place in range(len(request.continue_from), request.max_tokens):
                for index in range(request.sample_index, request.sample_index + request.n):
                    if self.gate is not None:
                        await self.gate.wait()
                    await asyncio.sleep(0)
                    yield self._output(request, place, index)
        finally:
            self.num_open -= 1

    async def score(self, request: ScoreRequest) -> ScoreOutput:
        self.scored.append(request)
        logprobs = tuple(-float(token_id) for token_id in request.target_token_ids)
        usage = Usage(len(request.prefix_token_ids), 1, 0)
        return ScoreOutput(request.request_id, logprobs, usage, Timings(0.0, 0.0, 0.0))

    def _output(self, request: GenerationRequest, place: int, index: int) -> GenerationOutput:
        token_id = request.prompt_token_ids[place % len(request.prompt_token_ids)]
        is_first, is_last = place == len(request.continue_from), place + 1 == request.max_tokens
        wants_logprobs = request.sampling.num_logprobs >= 0
        of_prompt = request.prompt_token_ids[1:] if is_first and request.num_prompt_logprobs >= 0 else ()
        return GenerationOutput(
            request_id=request.request_id,
            token_ids=(token_id,),
            text=self.token_bytes(token_id).decode("latin-1"),
            usage=Usage(len(request.prompt_token_ids), 3, place + 1 - len(request.continue_from)),
            logprobs=(TokenLogprobs(token_id, -0.5, ((token_id, -0.5), (0, -2.0))),) if wants_logprobs else (),
            index=index,
            prompt_logprobs=tuple(TokenLogprobs(prompt_token, -0.25) for prompt_token in of_prompt),
            finish_reason=FinishReason.LENGTH if is_last else None,
            timings=Timings(0.1, 0.2, 0.3) if is_last else None,
        )
