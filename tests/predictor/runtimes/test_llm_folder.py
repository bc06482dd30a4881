"""A language model from a Hugging Face folder, through the runtime and its engine process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mesh.errors import CorruptArtifact
from predictor.llm.settings import EngineSettings
from predictor.runtimes.base import ModelArtifact
from predictor.runtimes.llm import LlmRuntime, engine_settings
from tests.predictor.llm.model_folders import CHATML, write_folder

OPTIONS = {"dtype": "float32", "num_threads": "1", "kv_cache_bytes": str(2**24)}


async def load(runtime: LlmRuntime, folder: Path) -> None:
    artifact = ModelArtifact("tiny", "1", folder, "0" * 64, OPTIONS)
    await runtime.load(artifact, lambda stage, done, total: None, lambda is_healthy, why: None)


@pytest.mark.slow
async def test_a_folder_is_served_as_transformers_runs_it(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "qwen2", max_shard_size="60KB")
    runtime = LlmRuntime()
    try:
        await load(runtime, folder)
        answer = await runtime.infer(
            {
                "text_input": np.array([b"The quick dog"], dtype=object),
                "sampling_parameters": np.array([b'{"max_tokens": 12, "temperature": 0}'], dtype=object),
                "exclude_input_in_output": np.array([True]),
            }
        )
        prompt, description = await runtime.encode_prompt("The quick dog"), runtime.description
        generated = transformers_answer(folder, prompt, 12, sorted(description.eos_token_ids))
        text = b"".join(runtime.token_bytes(token) for token in generated).decode(errors="replace")
    finally:
        await runtime.unload()

    assert answer["text_output"][0].decode() == text
    assert (description.architecture, description.chat_template) == ("qwen2", CHATML)
    assert description.max_context_tokens == 512


@torch.inference_mode()
def transformers_answer(folder: Path, prompt: tuple[int, ...], num_tokens: int, end_ids: list[int]) -> list[int]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    whole = model.generate(
        torch.tensor([prompt]), max_new_tokens=num_tokens, do_sample=False, eos_token_id=end_ids, pad_token_id=0
    )
    tokens: list[int] = whole[0, len(prompt) :].tolist()
    return tokens


async def test_a_folder_with_a_broken_tokenizer_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    runtime = LlmRuntime()

    with pytest.raises(CorruptArtifact, match=r"tokenizer\.json: not valid JSON"):
        await load(runtime, tmp_path)
    await runtime.unload()


def test_kernels_are_kept_where_the_predictor_keeps_what_it_fetches(tmp_path: Path) -> None:
    artifact = ModelArtifact("tiny", "1", tmp_path, "0" * 64, OPTIONS, cache_dir=tmp_path / "cache")

    assert engine_settings(artifact).cache_dir == str(tmp_path / "cache")
    assert engine_settings(replace(artifact, options={"cache_dir": "/elsewhere"})).cache_dir == "/elsewhere"
    assert engine_settings(replace(artifact, cache_dir=None)).cache_dir == EngineSettings().cache_dir
