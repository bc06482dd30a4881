"""Qwen2 against transformers on a random model: biases on q, k and v, and no permuted rows."""

from __future__ import annotations

import gc
import unicodedata
from pathlib import Path

import pytest
import torch

from predictor.llm.loader import load_model
from predictor.llm.step import Chunk, StepPlan
from predictor.llm.tokenizer_file import read_tokenizer
from predictor.llm.torch_backend import TorchBackend
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.logits import all_logits
from tests.predictor.llm.small_tokenizers import TEXTS
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

    torch.testing.assert_close(torch.tensor([score.logprob for score in result.scores]), expected, atol=1e-4, rtol=1e-5)


CHAT = "<|im_start|>user\nWrite quicksort in Python.<|im_end|>\n<|im_start|>assistant\n```python\ndef "
PLAIN = (
    "The capital of France is Paris, and the capital of Germany is Berlin.",
    "def f(x):\n    return x ** 2\n\nprint(f(3))\n",
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_logits_of_the_real_model_are_as_exact_as_those_of_transformers(qwen2_gguf: Path) -> None:
    tokenizer = read_tokenizer(qwen2_gguf)
    chat, *plain = [tokenizer.encode(text) for text in (CHAT, *PLAIN)]
    loaded = load_model(qwen2_gguf, num_threads=1, dtype="float32")
    chat_logits, *plain_logits = [all_logits(loaded, token_ids) for token_ids in (chat, *plain)]
    del loaded
    gc.collect()
    reference = transformers_model(qwen2_gguf)
    with torch.inference_mode():
        for token_ids, logits in zip(plain, plain_logits, strict=True):
            expected = reference(torch.tensor([token_ids])).logits[0]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)
        single = reference(torch.tensor([chat])).logits[0]
        exact = reference.double()(torch.tensor([chat])).logits[0]

    error, usual_error = (chat_logits - exact).abs(), (single - exact).abs()

    # At a few of the first tokens of a chat float32 itself is off by more than 1e-4, whoever computes: measured against
    # float64, 2.9e-4 at most here and 6.3e-4 in transformers (docs/log.md says where it comes from). So ours must come
    # as close to float64 as transformers does.
    assert (error > 1e-4).double().mean() < 0.01
    assert error.mean() < 2e-5
    assert error.max() < max(1e-4, 2 * usual_error.max().item())


@pytest.mark.slow
def test_the_real_tokenizer_equals_transformers(qwen2_gguf: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = read_tokenizer(qwen2_gguf)
    reference = AutoTokenizer.from_pretrained(qwen2_gguf.parent, gguf_file=qwen2_gguf.name)

    # The model's own tokenizer.json puts text in NFC first; transformers leaves that out when it reads GGUF.
    expected = [reference.encode(unicodedata.normalize("NFC", text)) for text in TEXTS]
    assert [tokenizer.encode(text) for text in TEXTS] == expected
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<|im_end|>", reference.chat_template)
