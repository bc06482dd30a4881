"""Llama and SmolLM2 against transformers, which reads the same GGUF file by its own ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from predictor.llm.loader import LoadedModel, load_model
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.logits import all_logits
from tests.predictor.llm.transformers_model import transformers_model


@pytest.mark.parametrize(
    "model",
    [
        SmallModel(),
        SmallModel(tied=False, num_heads=4, num_kv_heads=4, num_layers=3),
        SmallModel(num_heads=8, num_kv_heads=1, rope_theta=500_000.0),
        SmallModel(quantization=gguf.GGMLQuantizationType.Q8_0),
        SmallModel(quantization=gguf.GGMLQuantizationType.Q4_1, tied=False),
    ],
    ids=str,
)
def test_logits_of_a_random_model_equal_transformers(tmp_path: Path, model: SmallModel) -> None:
    path = write_small_model(tmp_path / "small.gguf", model)
    token_ids = torch.randint(0, 260, (90,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.inference_mode():
        expected = transformers_model(path)(torch.tensor([token_ids])).logits[0]

    logits = all_logits(load_model(path, num_threads=1, dtype="float32"), token_ids)

    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_logits_of_smollm2_equal_transformers(smollm2_float32: LoadedModel, smollm2_oracle: Any) -> None:
    text = "<|im_start|>user\nName 3 rivers of Europe, and the sea that each flows into.<|im_end|>\n" * 3
    token_ids = smollm2_float32.tokenizer.encode(text)
    with torch.inference_mode():
        expected = smollm2_oracle(torch.tensor([token_ids])).logits[0]

    logits = all_logits(smollm2_float32, token_ids)

    # Logits reach 40, where one unit in the last place of float32 is 4e-6.
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_bfloat16_stays_close_to_float32(smollm2_float32: LoadedModel, smollm2_gguf: Path) -> None:
    token_ids = smollm2_float32.tokenizer.encode("The quick brown fox jumps over the lazy dog. " * 8)
    exact = all_logits(smollm2_float32, token_ids).log_softmax(dim=-1)

    rounded = all_logits(load_model(smollm2_gguf, num_threads=1, dtype="bfloat16"), token_ids).log_softmax(dim=-1)

    divergence = (exact.exp() * (exact - rounded)).sum(dim=-1).mean()
    assert divergence < 0.01
