"""With a seed, no bit of an answer depends on what else the engine does, or on which engine does it.

Each answer is compared with the one that the same request gets alone, token by token and log-probability by
log-probability: a log-probability shows differences that no token shows yet. What it gets alone is computed without
drafts, what it gets otherwise with them. By PyTorch in float32 and in bfloat16,
where the CPU has it, and by the native kernels, with one thread and with all of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.errors import Unavailable
from predictor.llm.client import EngineClient
from predictor.llm.factory import EngineModel, load_engine_model
from predictor.llm.loader import cpu_multiplies_bfloat16
from predictor.llm.messages import EngineSpec
from predictor.llm.outputs import GenerationOutput, ScoreOutput
from predictor.llm.sequence import GenerationRequest, ScoreRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.step import SamplingParams
from predictor.llm.tokenizer_file import read_tokenizer
from predictor.llm.worker import build_engine
from tests.predictor.llm.gguf_files import SmallModel, write_small_model

# (dtype of PyTorch's backend, or "native"; threads, 0 for all)
MODES = [("float32", 1), ("float32", 0), ("bfloat16", 1), ("bfloat16", 0), ("native", 1), ("native", 3)]
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, seed=11, num_logprobs=1)
PENALIZED = replace(SEEDED, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2, min_p=0.02)

# (request, output) → tokens with their log-probabilities; or the log-probabilities of a score.
Answers = dict[tuple[str, int], list[tuple[int, float]]]


@dataclass
class Loaded:
    """num_accepted_tokens, num_rejected_tokens: of the drafts of all answers so far."""

    path: Path
    settings: EngineSettings
    model: EngineModel
    num_accepted_tokens: int = 0
    num_rejected_tokens: int = 0

    def block_bytes(self) -> int:
        return self.model.backend.block_bytes(self.settings.block_size)

    def answers(self, requests: Sequence[GenerationRequest | ScoreRequest], **changes: int | bool | str) -> Answers:
        """What an engine with `changes` of its settings says, and under ("preempted", n) that it preempted n times."""
        spec = EngineSpec(self.path, replace(self.settings, **changes))  # type: ignore[arg-type]
        engine, _ = build_engine(self.model, spec)
        for request in requests:
            engine.add(request)
        answers: Answers = {}
        while engine.has_work:
            for output in engine.step():
                if isinstance(output, GenerationOutput):
                    answers.setdefault((output.request_id, output.index), []).extend(
                        (entry.token_id, entry.logprob) for entry in (*output.prompt_logprobs, *output.logprobs)
                    )
                elif isinstance(output, ScoreOutput):
                    answers[output.request_id, 0] = [(-1, logprob) for logprob in output.logprobs]
        stats = engine.stats()
        answers["preempted", stats.num_preemptions] = []
        self.num_accepted_tokens += stats.num_accepted_tokens
        self.num_rejected_tokens += stats.num_draft_tokens - stats.num_accepted_tokens
        return answers


def load(path: Path, mode: str, num_threads: int) -> Loaded:
    backend, dtype = ("native", "auto") if mode == "native" else ("auto", mode)
    if dtype == "bfloat16" and not cpu_multiplies_bfloat16():
        pytest.skip("this CPU does not multiply bfloat16, so nobody runs it so by default")
    settings = EngineSettings(
        backend=backend, dtype=dtype, num_threads=num_threads, kv_cache_bytes=2**24, max_num_seqs=40
    )
    return Loaded(path, settings, load_engine_model(path, settings, lambda stage, share: None))


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("engine") / "small.gguf", SmallModel(num_layers=2, tied=False))


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: f"{mode[0]}-{mode[1] or 'all'}")
def small(small_gguf: Path, request: pytest.FixtureRequest) -> Loaded:
    return load(small_gguf, *request.param)


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(3 + (7 * seed + 5 * i) % 250 for i in range(length))


# Its output repeats itself, so that drafts are right; cold enough for that, and drawn all the same.
REPETITIVE = GenerationRequest("repetitive", prompt(120), replace(SEEDED, temperature=0.3), 40, ignore_eos=True)


def requests_of_all_kinds() -> list[GenerationRequest | ScoreRequest]:
    lengths = (1, 15, 16, 17, 33, 50, 130)
    requests: list[GenerationRequest | ScoreRequest] = []
    for name, sampling in (("seeded", SEEDED), ("again", SEEDED), ("penalized", PENALIZED)):
        requests += [
            GenerationRequest(f"{name}{length}", prompt(length), sampling, 24, ignore_eos=True) for length in lengths
        ]
    requests += [ScoreRequest(f"score{length}", prompt(length), tuple(range(3, 40))) for length in lengths]
    requests.append(REPETITIVE)
    requests.append(GenerationRequest("forked", prompt(40), SEEDED, 12, ignore_eos=True, n=4, num_prompt_logprobs=3))
    return requests


def test_the_engine_finds_out_by_itself_that_this_machine_is_proved_deterministic(small: Loaded) -> None:
    settings = replace(small.settings, deterministic=True)

    engine, info = build_engine(small.model, EngineSpec(small.path, settings))

    assert info.is_proved_deterministic
    engine.add(GenerationRequest("r", prompt(20), SEEDED, 1))
    engine.step()
    assert engine.stats().num_last_step_tokens == 20, "it would compute one token at a time if it had to"


@pytest.mark.timeout(300)  # PyTorch's threads wait for each other where others use the CPUs
def test_no_bit_depends_on_company_chunks_cache_or_preemption(small: Loaded) -> None:
    requests = requests_of_all_kinds()
    alone: Answers = {}
    for request in requests:
        alone |= small.answers([request], speculation="off")

    roads = {
        "together": small.answers(requests),
        "in small chunks": small.answers(requests, max_num_batched_tokens=9, max_num_seqs=5),
        "in odd chunks": small.answers(requests, max_num_batched_tokens=61, max_num_seqs=40),
        "alone, with drafts": alone | small.answers([REPETITIVE]),
        "without cache": small.answers(requests, enable_prefix_caching=False),
        "preempted": small.answers(requests, kv_cache_bytes=14 * small.block_bytes()),
    }

    assert ("preempted", 0) in roads["together"] and ("preempted", 0) not in roads["preempted"]
    for name, answers in roads.items():
        assert [key for key in alone if key[0] != "preempted" and answers[key] != alone[key]] == [], name
    assert small.num_accepted_tokens > 20
    assert small.num_rejected_tokens > 20


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=8),
    budget=st.integers(8, 120),
    max_num_seqs=st.integers(1, 8),
    num_blocks=st.integers(8, 40),
    caching=st.booleans(),
    num_sent=st.integers(0, 12),
)
def test_no_bit_depends_on_random_company_and_a_restart_in_the_middle(
    small: Loaded,
    lengths: list[int],
    budget: int,
    max_num_seqs: int,
    num_blocks: int,
    caching: bool,
    num_sent: int,
) -> None:
    asked = GenerationRequest("asked", prompt(37), PENALIZED, 14, ignore_eos=True)
    others = [GenerationRequest(f"{i}", prompt(n, i), SEEDED, 9, ignore_eos=True) for i, n in enumerate(lengths)]
    whole = small.answers([asked], speculation="off")["asked", 0]
    sent = tuple(token_id for token_id, _ in whole[:num_sent])

    answers = small.answers(
        [*others, replace(asked, continue_from=sent)],
        max_num_batched_tokens=budget,
        max_num_seqs=max_num_seqs,
        kv_cache_bytes=num_blocks * small.block_bytes(),
        enable_prefix_caching=caching,
    )

    assert answers["asked", 0] == whole[num_sent:]


async def test_an_engine_that_is_killed_in_mid_stream_is_followed_by_one_that_says_the_rest(small_gguf: Path) -> None:
    tokenizer = read_tokenizer(small_gguf)
    spec = EngineSpec(small_gguf, EngineSettings(kv_cache_bytes=2**24))
    asked = GenerationRequest("r", prompt(40), SEEDED, 60, ignore_eos=True)
    first, second = EngineClient(spec, tokenizer), EngineClient(spec, tokenizer)
    await asyncio.gather(first.start(), second.start())
    try:
        whole = await tokens_of(second, asked)
        sent: list[int] = []
        with pytest.raises(Unavailable):
            async with aclosing(first.generate(asked)) as outputs:
                async for output in outputs:
                    sent += output.token_ids
                    if len(sent) >= 5 and first.pid is not None:
                        os.kill(first.pid, signal.SIGKILL)
        rest = await tokens_of(second, replace(asked, continue_from=tuple(sent)))
    finally:
        await asyncio.gather(first.stop(), second.stop())

    assert 5 <= len(sent) < 60
    assert sent + rest == whole


async def tokens_of(client: EngineClient, request: GenerationRequest) -> list[int]:
    async with aclosing(client.generate(request)) as outputs:
        return [token_id async for output in outputs for token_id in output.token_ids]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_bit_of_smollm2_depends_on_company_in_the_default_mode(smollm2_gguf: Path) -> None:
    loaded = load(smollm2_gguf, "auto", 0)
    encode = read_tokenizer(smollm2_gguf).encode
    texts = ("Why is the sky blue?", "Name three rivers.", "def fib(n):", "Once upon a time " * 12, "Ja", "1, 2, " * 30)
    prompts = [tuple(encode(text)) for text in texts]
    requests: list[GenerationRequest | ScoreRequest] = [
        GenerationRequest(f"g{i}", tokens, SEEDED, 36, ignore_eos=True) for i, tokens in enumerate(prompts * 4)
    ]
    requests += [ScoreRequest(f"s{i}", tokens, tuple(encode(" It is so."))) for i, tokens in enumerate(prompts)]
    alone: Answers = {}
    for request in requests[: len(texts)] + requests[-len(texts) :]:
        alone |= loaded.answers([request], speculation="off")

    roads = [
        loaded.answers(requests, kv_cache_bytes=2**27),
        loaded.answers(requests, kv_cache_bytes=2**27, max_num_batched_tokens=50, max_num_seqs=9),
        loaded.answers(requests, kv_cache_bytes=24 * loaded.block_bytes(), enable_prefix_caching=False),
    ]

    assert ("preempted", 0) not in roads[-1]
    for answers in roads:
        assert [key for key in alone if key[0] != "preempted" and answers[key] != alone[key]] == []
