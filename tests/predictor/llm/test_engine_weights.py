"""The whole engine with real weights: what transformers says, and the same whatever else the engine does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from predictor.llm.client import EngineClient
from predictor.llm.factory import load_torch_model
from predictor.llm.loader import LoadedModel
from predictor.llm.messages import EngineSpec
from predictor.llm.outputs import GenerationOutput, ScoreOutput
from predictor.llm.sequence import FinishReason, GenerationRequest, ScoreRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.step import SamplingParams
from predictor.llm.worker import build_engine
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.transformers_model import greedy_choices

SEEDED = SamplingParams(temperature=1.0, top_p=0.95, seed=11)
GREEDY = SamplingParams(temperature=0.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_concurrent_greedy_answers_of_smollm2_equal_transformers(
    smollm2_gguf: Path, smollm2_float32: LoadedModel, smollm2_oracle: Any, smollm2_prompts: list[tuple[int, ...]]
) -> None:
    tokenizer = smollm2_float32.tokenizer
    settings = EngineSettings(dtype="float32", kv_cache_bytes=2**28, num_threads=1, max_num_batched_tokens=64)
    client = EngineClient(EngineSpec(smollm2_gguf, settings), tokenizer)
    await client.start()
    try:
        answers = await asyncio.gather(*(ask(client, prompt) for prompt in smollm2_prompts))
    finally:
        await client.stop()

    for prompt, answer in zip(smollm2_prompts, answers, strict=True):
        assert list(answer.token_ids) == greedy_choices(smollm2_oracle, prompt, answer.token_ids)
        assert len(answer.token_ids) == 64 or answer.token_ids[-1] in tokenizer.eos_ids
        assert answer.text == tokenizer.decode(answer.token_ids)


async def ask(client: EngineClient, prompt: tuple[int, ...]) -> GenerationOutput:
    """The whole greedy answer, of at most 64 tokens."""
    whole: GenerationOutput | None = None
    async with aclosing(client.generate(GenerationRequest("r", prompt, GREEDY, 64))) as outputs:
        async for output in outputs:
            whole = output if whole is None else whole.followed_by(output)
    assert whole is not None
    return whole


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("engine") / "small.gguf", SmallModel(num_layers=2, tied=False))


def run(path: Path, requests: Sequence[GenerationRequest | ScoreRequest], **changes: int | bool) -> dict[str, object]:
    """Tokens or scores of each request; with "preempted" if there were preemptions."""
    settings = EngineSettings(
        **{  # type: ignore[arg-type]  # each of the changes has its field's type
            "dtype": "float32",
            "num_threads": 1,
            "kv_cache_bytes": 2**24,
            "max_num_seqs": 8,
            **changes,
        }
    )
    engine, _ = build_engine(load_torch_model(path, settings, lambda stage, share: None), EngineSpec(path, settings))
    for request in requests:
        engine.add(request)
    results: dict[str, object] = {}
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, GenerationOutput):
                tokens.setdefault(output.request_id, []).extend(output.token_ids)
                if output.finish_reason is FinishReason.LENGTH:
                    results[output.request_id] = tokens[output.request_id]
            elif isinstance(output, ScoreOutput):
                results[output.request_id] = output.logprobs
    results["preempted"] = engine.stats().num_preemptions > 0
    return results


def test_tokens_and_scores_do_not_depend_on_company_chunks_cache_or_preemption(small_gguf: Path) -> None:
    prompts = [tuple(3 + (7 * i + j) % 250 for j in range(length)) for i, length in enumerate((1, 15, 16, 17, 33, 50))]
    requests: list[GenerationRequest | ScoreRequest] = [
        GenerationRequest(f"g{i}", prompt, SEEDED, 24, ignore_eos=True) for i, prompt in enumerate(prompts)
    ]
    requests += [GenerationRequest(f"again{i}", p, SEEDED, 24, ignore_eos=True) for i, p in enumerate(prompts)]
    requests += [ScoreRequest(f"s{i}", prompt, tuple(range(3, 20))) for i, prompt in enumerate(prompts)]
    alone: dict[str, object] = {}
    for request in requests:
        alone |= run(small_gguf, [request])

    together = run(small_gguf, requests)
    chunked = run(small_gguf, requests, max_num_batched_tokens=9)
    uncached = run(small_gguf, requests, enable_prefix_caching=False)
    preempted = run(small_gguf, requests, kv_cache_bytes=8 * 16 * block_token_bytes(small_gguf))

    assert preempted.pop("preempted")
    for results in (alone, together, chunked, uncached):
        assert not results.pop("preempted")
    assert alone == together == chunked == uncached == preempted


def test_a_generation_goes_on_from_its_middle_as_it_would_have(small_gguf: Path) -> None:
    prompt = tuple(range(3, 40))
    whole = run(small_gguf, [GenerationRequest("r", prompt, SEEDED, 40, ignore_eos=True)])["r"]
    assert isinstance(whole, list)

    rest = run(
        small_gguf,
        [GenerationRequest("r", prompt, SEEDED, 40, ignore_eos=True, continue_from=tuple(whole[:13]))],
        max_num_batched_tokens=11,
    )["r"]

    assert whole[:13] + rest == whole  # type: ignore[operator]


def block_token_bytes(path: Path) -> int:
    settings = EngineSettings(dtype="float32", num_threads=1)
    return load_torch_model(path, settings, lambda stage, share: None).backend.block_bytes(1)
