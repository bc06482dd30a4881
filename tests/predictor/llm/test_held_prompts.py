"""Greedy text equals that of transformers for 200 held prompts, all at once through the engine, in float32."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from predictor.llm.client import EngineClient
from predictor.llm.messages import EngineSpec
from predictor.llm.outputs import GenerationOutput
from predictor.llm.sequence import GenerationRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.step import SamplingParams
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.tokenizer_file import read_tokenizer
from tests.predictor.llm.held_prompts import held_prompts

MAX_TOKENS = 48
BATCH = 8
SETTINGS = EngineSettings(dtype="float32", kv_cache_bytes=2**28, num_threads=2, max_num_batched_tokens=256)
GREEDY = SamplingParams(temperature=0.0)


def test_there_are_200_prompts_and_no_two_alike() -> None:
    prompts = held_prompts()

    assert len(prompts) == len(set(prompts)) == 200
    assert any(prompt.endswith(" ") for prompt in prompts)
    assert sum("\n" in prompt for prompt in prompts) > 100


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_greedy_text_of_200_held_prompts_equals_transformers(smollm2_gguf: Path, smollm2_oracle: Any) -> None:
    tokenizer = read_tokenizer(smollm2_gguf)
    prompts = [tuple(tokenizer.encode(text)) for text in held_prompts()]

    async with running_engine(smollm2_gguf, tokenizer) as client:
        answers = await asyncio.gather(*(ask(client, f"held-{i}", prompt) for i, prompt in enumerate(prompts)))

    token_ids = [answer.token_ids for answer in answers]
    wrong = [where for where in differences(smollm2_oracle, prompts, token_ids) if where is not None]
    assert not wrong, "\n".join(wrong)
    other = [(token_ids[0][0] + 1, *token_ids[0][1:])]
    assert "token 0: " in str(next(differences(smollm2_oracle, prompts[:1], other))), "a wrong token is found"
    for prompt, answer in zip(prompts, answers, strict=True):
        assert len(answer.token_ids) == MAX_TOKENS or answer.token_ids[-1] in tokenizer.eos_ids, prompt
        assert answer.text == tokenizer.decode(answer.token_ids)
    # And what transformers' own loop makes of every twentieth, to the character.
    for prompt, answer in list(zip(prompts, answers, strict=True))[::20]:
        assert answer.text == generated_text(smollm2_oracle, tokenizer, prompt)


@asynccontextmanager
async def running_engine(path: Path, tokenizer: Tokenizer) -> AsyncIterator[EngineClient]:
    client = EngineClient(EngineSpec(path, SETTINGS), tokenizer)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def ask(client: EngineClient, request_id: str, prompt: tuple[int, ...]) -> GenerationOutput:
    whole: GenerationOutput | None = None
    async with aclosing(client.generate(GenerationRequest(request_id, prompt, GREEDY, MAX_TOKENS))) as outputs:
        async for output in outputs:
            whole = output if whole is None else whole.followed_by(output)
    assert whole is not None
    return whole


def differences(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Iterator[str | None]:
    """For each answer where `model` would have gone on otherwise, and by how much; None where it agrees throughout.

    Teacher-forced: the model reads prompt and answer at once and says its choice after every token. While choices
    equal the answer, they are what it would have generated.
    """
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(answers[i]))
    found: dict[int, str] = {}
    for start in range(0, len(by_length), BATCH):
        batch = by_length[start : start + BATCH]
        texts = [[*prompts[i], *answers[i][:-1]] for i in batch]
        for i, logits in zip(batch, padded_logits(model, texts), strict=True):
            for place, (row, token_id) in enumerate(zip(logits[len(prompts[i]) - 1 :], answers[i], strict=True)):
                best = int(row.argmax())
                if best != token_id:
                    margin = float(row[best] - row[token_id])
                    found[i] = f"prompt {i}, token {place}: {token_id}, but transformers has {best}, by {margin:.2e}"
                    break
    return (found.get(i) for i in range(len(prompts)))


@torch.inference_mode()
def padded_logits(model: Any, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits after every token of each text, computed side by side: [tokens, vocab] each."""
    longest = max(len(text) for text in texts)
    token_ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    logits = model(token_ids, attention_mask=mask).logits
    return [rows[: len(text)] for rows, text in zip(logits, texts, strict=True)]


@torch.inference_mode()
def generated_text(model: Any, tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    whole = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=MAX_TOKENS,
        do_sample=False,
        eos_token_id=sorted(tokenizer.eos_ids),
        pad_token_id=tokenizer.eos_id,
    )
    return tokenizer.decode(whole[0, len(prompt) :].tolist())
