"""Qwen2 against transformers on a random model: biases on q, k and v, and no permuted rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from predictor.llm.loader import load_model
from predictor.llm.step import Chunk, StepPlan
from predictor.llm.torch_backend import TorchBackend
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.transformers_model import transformers_model


@pytest.mark.parametrize("tied", [True, False])
def test_scores_of_a_random_model_equal_transformers(tmp_path: Path, tied: bool) -> None:
    path = write_small_model(tmp_path / "small.gguf", SmallModel(architecture="qwen2", tied=tied))
    token_ids = torch.randint(0, 260, (60,), generator=torch.Generator().manual_seed(4)).tolist()
    with torch.inference_mode():
        logprobs = transformers_model(path)(torch.tensor([token_ids[:-1]])).logits[0].log_softmax(dim=-1)
    expected = logprobs[torch.arange(59), torch.tensor(token_ids[1:])]
    backend = TorchBackend(load_model(path, num_threads=1, dtype="float32"))
    backend.allocate(4, 16)

    (result,) = backend.execute(
        StepPlan(0, (Chunk(0, tuple(token_ids[:-1]), 0, (3, 0, 2, 1), score_targets=tuple(token_ids[1:])),))
    )

    torch.testing.assert_close(torch.tensor(result.score), expected, atol=1e-4, rtol=1e-5)
