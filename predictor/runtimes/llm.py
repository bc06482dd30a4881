"""Language models from GGUF files and Hugging Face folders, computed by the engine in a process of its own.

As a runtime of arrays it speaks the tensor names of Triton's LLM backends: `text_input`, `stream`,
`sampling_parameters` (JSON) and `exclude_input_in_output` in, `text_output` out. As a language model it passes tokens.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import numpy as np

from mesh.context import current, new_request_id
from mesh.errors import InvalidInput, Overloaded
from mesh.logs import get_logger
from mesh.storage.disk import size_of
from predictor.llm.client import EngineClient
from predictor.llm.factory import PRODUCT_MODEL, make_guides
from predictor.llm.guide import GuideSpec
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.messages import EngineSpec
from predictor.llm.outputs import EngineStats, GenerationOutput, ScoreOutput
from predictor.llm.sequence import GenerationRequest, ScoreRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.supervisor import EngineState
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.tokenizer_file import read_tokenizer
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.runtimes.generation import GenerationOptions, bad_word_tokens, build_request, parse_options
from predictor.runtimes.language_model import EngineDescription, KvCacheDescription, LanguageModelDescription
from predictor.runtimes.observations import GenerationObservations, RequestObserver
from predictor.runtimes.options import read_options

log = get_logger(__name__)

METADATA = ModelMetadata(
    platform="meshserve_llm",
    backend="llm",
    inputs=(
        TensorSpec("text_input", "BYTES", (1,)),
        TensorSpec("stream", "BOOL", (1,), optional=True),
        TensorSpec("sampling_parameters", "BYTES", (1,), optional=True),
        TensorSpec("exclude_input_in_output", "BOOL", (1,), optional=True),
    ),
    outputs=(TensorSpec("text_output", "BYTES", (1,)),),
    is_decoupled=True,
)


# Guides that are checked or wait for it at the same time.
MAX_GUIDE_CHECKS = 32


def engine_settings(artifact: ModelArtifact) -> EngineSettings:
    """The settings that the deployment's options say; compiled kernels go to the artifact's cache unless they do."""
    place = {} if artifact.cache_dir is None else {"cache_dir": str(artifact.cache_dir)}
    return read_options({**place, **artifact.options}, EngineSettings)


def draw_seed() -> int:
    """A seed that every JSON reader takes exactly: below 2^53."""
    return secrets.randbits(53)


class LlmRuntime:
    """One engine and its tokenizer.

    draw_seed: gives seeds to requests that bring none. factory: makes the model, in the engine's process (see
    `EngineSpec`). read_tokenizer, make_guides: not through that factory, which would bring torch into this process.
    """

    def __init__(
        self,
        draw_seed: Callable[[], int] = draw_seed,
        factory: str = PRODUCT_MODEL,
        read_tokenizer: Callable[[Path], Tokenizer] = read_tokenizer,
        make_guides: Callable[[Tokenizer], LlguidanceGuides | None] = make_guides,
    ) -> None:
        self.observations = GenerationObservations()
        self._draw_seed = draw_seed
        self._factory = factory
        self._read_tokenizer = read_tokenizer
        self._make_guides = make_guides
        self._settings = EngineSettings()
        self._tokenizer: Tokenizer | None = None
        self._engine: EngineClient | None = None
        self._guides: LlguidanceGuides | None = None
        # Checks wait for one worker process: here, and not in the threads that everything else shares.
        self._guide_checks = ThreadPoolExecutor(max_workers=2, thread_name_prefix="guide-check")
        self._num_guide_checks = 0
        self._is_loaded = False
        self._weight_bytes = 0

    @property
    def metadata(self) -> ModelMetadata:
        return METADATA

    @property
    def memory_bytes(self) -> int:
        return self._weight_bytes + self._loaded()[0].info.kv_cache_bytes

    @property
    def description(self) -> LanguageModelDescription:
        engine, tokenizer = self._loaded()
        return LanguageModelDescription(
            architecture=engine.info.facts.architecture,
            max_context_tokens=engine.info.limits.max_context_tokens,
            vocab_size=engine.info.limits.vocab_size,
            chat_template=tokenizer.chat_template or "",
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token or "",
            eos_token_ids=tuple(sorted(tokenizer.eos_ids)),
        )

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        self._settings = engine_settings(artifact)
        self._weight_bytes = await asyncio.to_thread(size_of, artifact.path)
        progress("tokenizer", 0, 1)
        self._tokenizer = await asyncio.to_thread(self._read_tokenizer, artifact.path)
        self._guides = await asyncio.to_thread(self._make_guides, self._tokenizer)
        progress("tokenizer", 1, 1)

        def on_state(state: EngineState) -> None:
            if state is EngineState.READY:
                self._log_kv_cache(artifact.name)
            if self._is_loaded:
                on_health(
                    state is EngineState.READY, "" if state is EngineState.READY else f"the engine is {state.value}"
                )

        spec = EngineSpec(artifact.path, self._settings, self._factory, artifact.logs)
        self._engine = EngineClient(spec, self._tokenizer, on_state, on_step=self.observations.step_tokens.observe)
        await self._engine.start(lambda stage, share: progress(stage, round(100 * share), 100))
        self._is_loaded = True

    async def warm(self) -> None:
        """The engine has warmed itself up before it said that it is ready."""

    async def unload(self) -> None:
        self._is_loaded = False
        self._guide_checks.shutdown(wait=False, cancel_futures=True)
        if self._guides is not None:
            await asyncio.to_thread(self._guides.close)
        if self._engine is not None:
            await self._engine.stop()

    @property
    def kv_cache(self) -> KvCacheDescription:
        info = self._loaded()[0].info
        return KvCacheDescription(
            num_blocks=info.num_blocks,
            block_size=info.block_size,
            size_bytes=info.kv_cache_bytes,
            dtype=info.facts.kv_cache_dtype or info.facts.dtype,
            enable_prefix_caching=self._settings.enable_prefix_caching,
        )

    def stats(self) -> EngineStats:
        return self._loaded()[0].stats()

    async def describe_engine(self, timeout_s: float) -> EngineDescription:
        engine = self._loaded()[0]
        inspection = await engine.inspect(timeout_s) if engine.state is EngineState.READY else None
        return EngineDescription(engine.state.value, engine.pid, engine.info.kv_cache_bytes, inspection)

    async def encode_prompt(self, text: str) -> tuple[int, ...]:
        engine, tokenizer = self._loaded()
        token_ids = tuple(await engine.encode(text, add_special=True))
        # A chat template writes the begin-of-text token out itself: once is enough.
        if tokenizer.bos_id is not None and token_ids[:2] == (tokenizer.bos_id, tokenizer.bos_id):
            return token_ids[1:]
        return token_ids

    async def encode(self, text: str) -> tuple[int, ...]:
        return tuple(await self._loaded()[0].encode(text))

    def token_bytes(self, token_id: int) -> bytes:
        return self._loaded()[1].id_to_bytes(token_id)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._loaded()[1].decode(token_ids, skip_special=False)

    async def make_request(
        self,
        prompt_token_ids: tuple[int, ...],
        options: GenerationOptions,
        *,
        continue_from: tuple[int, ...] = (),
        priority: int = 0,
        cache_salt: str = "",
    ) -> GenerationRequest:
        engine, tokenizer = self._loaded()
        if options.guide is not None:
            await self._check_guide(options.guide)
        request = current()
        return build_request(
            request.request_id if request else new_request_id(),
            prompt_token_ids,
            options,
            max_context_tokens=engine.info.limits.max_context_tokens,
            draw_seed=self._draw_seed,
            bad_words=bad_word_tokens(options.bad_words, tokenizer.encode),
            continue_from=continue_from,
            priority=priority,
            cache_salt=cache_salt,
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationOutput, None]:
        observer = RequestObserver(request, self.observations)
        async with aclosing(self._loaded()[0].generate(request)) as outputs:
            async for output in outputs:
                observer.saw(output)
                yield output

    async def score(self, request: ScoreRequest) -> ScoreOutput:
        return await self._loaded()[0].score(request)

    async def infer(self, inputs: Arrays) -> Arrays:
        """The whole text at once, after the prompt unless the request excludes it."""
        prompt = _text(inputs, "text_input")
        request = await self._request(prompt, inputs)
        parts = [] if _flag(inputs, "exclude_input_in_output", False) else [prompt]
        async with aclosing(self.generate(request)) as outputs:
            async for output in outputs:
                parts.append(output.text)
        return _answer("".join(parts))

    async def infer_stream(self, inputs: Arrays) -> AsyncGenerator[Arrays, None]:
        """With `stream`, one answer for each new piece of text; without, one for all of it."""
        if not _flag(inputs, "stream", False):
            yield await self.infer(inputs)
            return
        if not _flag(inputs, "exclude_input_in_output", True):
            raise InvalidInput(
                "exclude_input_in_output is false; a stream never repeats its input", field="exclude_input_in_output"
            )
        request = await self._request(_text(inputs, "text_input"), inputs)
        is_empty = True
        async with aclosing(self.generate(request)) as outputs:
            async for output in outputs:
                # A reader counts on one answer at least, also to an output without text.
                if output.text or (output.finish_reason is not None and is_empty):
                    is_empty = False
                    yield _answer(output.text)

    async def _request(self, prompt: str, inputs: Arrays) -> GenerationRequest:
        options = GenerationOptions()
        if "sampling_parameters" in inputs:
            options = parse_options(bytes(inputs["sampling_parameters"].flat[0]))
        return await self.make_request(await self.encode_prompt(prompt), options)

    def _log_kv_cache(self, model: str) -> None:
        cache = self.kv_cache
        log.info(
            "kv_cache_ready",
            model=model,
            tokens=cache.num_tokens,
            blocks=cache.num_blocks,
            block_size=cache.block_size,
            size_bytes=cache.size_bytes,
        )

    async def _check_guide(self, spec: GuideSpec) -> None:
        """Before the request reaches the engine: a malformed grammar costs those who are running nothing."""
        if self._guides is None:
            raise InvalidInput("guide: the model has no end-of-text token, so no output can be guided", field="guide")
        if self._num_guide_checks >= MAX_GUIDE_CHECKS:
            raise Overloaded(f"{self._num_guide_checks} guides are being checked; no more are taken at the same time")
        self._num_guide_checks += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._guide_checks, self._guides.check, spec)
        finally:
            self._num_guide_checks -= 1

    def _loaded(self) -> tuple[EngineClient, Tokenizer]:
        assert self._engine is not None and self._tokenizer is not None, "load() comes first"
        return self._engine, self._tokenizer


def _text(inputs: Arrays, name: str) -> str:
    try:
        return bytes(inputs[name].flat[0]).decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{name}' is not UTF-8", field=name) from None


def _flag(inputs: Arrays, name: str, default: bool) -> bool:
    return bool(inputs[name].flat[0]) if name in inputs else default


def _answer(text: str) -> Arrays:
    return {"text_output": np.array([text.encode()], dtype=object)}
