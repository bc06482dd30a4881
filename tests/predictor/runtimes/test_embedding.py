"""Embeddings: MiniLM's real weights beside `transformers`, and small folders for what each file and option does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from mesh.errors import CorruptArtifact, InvalidInput, PromptTooLong
from predictor.runtimes.base import ModelArtifact
from predictor.runtimes.embedding import EmbeddingRuntime
from tests.predictor.small_encoders import TEXTS, change_json, hidden_states, write_encoder, write_sentence_files

MIXED = (
    "Hello, world!",
    "",
    "The capital of France is Paris. " * 20,
    "é ü 漢字 emoji 🙂 [SEP] [MASK]",
    *(f"{'word ' * count}" for count in range(1, 60, 7)),
    "What is the capital of France?",
    "Paris is the seat of the French government.",
    "Bananas are yellow.",
)


async def load(folder: Path, **options: str) -> EmbeddingRuntime:
    runtime = EmbeddingRuntime()
    artifact = ModelArtifact("model", "1", folder, "0" * 64, options)
    await runtime.load(artifact, lambda stage, done, total: None, lambda is_healthy, why: None)
    return runtime


async def embed(runtime: EmbeddingRuntime, *texts: str) -> NDArray[np.float32]:
    answer = await runtime.infer({"text": np.array([text.encode() for text in texts], dtype=object)})
    return answer["embedding"]


@torch.inference_mode()
def minilm_reference(folder: Path, texts: tuple[str, ...]) -> tuple[NDArray[np.float32], list[int]]:
    """As the model's card has it: mean over the mask, then normalized; and the number of tokens."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=256, return_tensors="pt")
    hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    mean = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(mean, dim=-1).numpy(), inputs["attention_mask"].sum(1).tolist()


async def test_minilm_is_equal_to_the_reference(minilm_folder: Path) -> None:
    runtime = await load(minilm_folder)
    expected, num_tokens = minilm_reference(minilm_folder, MIXED)

    answer = await runtime.infer({"text": np.array([text.encode() for text in MIXED], dtype=object)})

    np.testing.assert_allclose(answer["embedding"], expected, atol=1e-5)
    assert answer["num_tokens"].tolist() == num_tokens
    question, seat, bananas = answer["embedding"][-3:]
    assert question @ seat > 0.5 > question @ bananas
    assert runtime.metadata.platform == "torch_bert"
    assert runtime.metadata.parameters == {"pooling": "mean", "normalize": "true", "max_tokens": "256"}
    assert 90_000_000 < runtime.memory_bytes < 150_000_000
    await runtime.unload()


async def test_minilm_gives_a_text_the_same_vector_in_any_company(minilm_folder: Path) -> None:
    runtime = await load(minilm_folder, max_batch_tokens="400")
    together = await embed(runtime, *MIXED)

    alone = np.concatenate([await embed(runtime, text) for text in MIXED])

    np.testing.assert_allclose(alone, together, atol=1e-5)
    await runtime.unload()


async def test_minilm_in_bfloat16_points_the_same_way(minilm_folder: Path) -> None:
    exact, rounded = [await embed(await load(minilm_folder, dtype=dtype), *MIXED) for dtype in ("float32", "bfloat16")]

    assert (exact * rounded).sum(axis=1).min() > 0.999


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
async def test_folder_is_pooled_as_its_files_say(tmp_path: Path, pooling: str, normalize: bool) -> None:
    flag = {"mean": "mean_tokens", "cls": "cls_token", "max": "max_tokens"}[pooling]
    folder = write_sentence_files(write_encoder(tmp_path), pooling=f"pooling_mode_{flag}", normalize=normalize)

    vectors = await embed(await load(folder), *TEXTS)

    np.testing.assert_allclose(vectors, expected(folder, pooling, normalize), atol=1e-5)


@pytest.mark.parametrize(("pooling", "normalize"), [("cls", "true"), ("max", "false")])
async def test_options_go_before_the_files(tmp_path: Path, pooling: str, normalize: str) -> None:
    folder = write_sentence_files(write_encoder(tmp_path))

    vectors = await embed(await load(folder, pooling=pooling, normalize=normalize), *TEXTS)

    np.testing.assert_allclose(vectors, expected(folder, pooling, normalize == "true"), atol=1e-5)


async def test_plain_encoder_is_pooled_by_the_mean(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, "roberta", max_position_embeddings=200, type_vocab_size=1)

    vectors = await embed(await load(folder), *TEXTS)

    np.testing.assert_allclose(vectors, expected(folder, "mean", False), atol=1e-5)


def expected(folder: Path, pooling: str, normalize: bool) -> NDArray[np.float32]:
    pool: Any = {"mean": lambda x: x.mean(0), "cls": lambda x: x[0], "max": lambda x: x.max(0)}[pooling]
    rows = np.stack([pool(states) for states in hidden_states(folder, TEXTS)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True) if normalize else rows


async def test_text_beyond_the_limit_is_refused_or_cut(tmp_path: Path) -> None:
    folder = write_sentence_files(write_encoder(tmp_path), max_tokens=6)
    long, cut = "a lazy dog and cat and fox", "a lazy dog and"

    with pytest.raises(PromptTooLong, match=r"text\[1\] has 9 tokens; the model takes 6"):
        await embed(await load(folder), "a", long)
    first, second = await embed(await load(folder, truncate="true"), long, cut)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert (await embed(await load(folder, max_tokens="9"), long)).shape == (1, 32)


async def test_batch_of_nothing_is_answered_with_nothing(tmp_path: Path) -> None:
    runtime = await load(write_encoder(tmp_path))

    answer = await runtime.infer({"text": np.empty(0, dtype=object)})

    assert (answer["embedding"].shape, answer["num_tokens"].shape) == ((0, 32), (0,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "option 'pooling' is 'median'; it must be one of auto, mean, cls, max"),
        ({"normalize": "yes"}, "option 'normalize' is 'yes'; it must be one of auto, true, false"),
        ({"max_tokens": "41"}, "option 'max_tokens' is 41; the model has positions for 40 tokens"),
        ({"max_tokens": "2"}, "option 'max_tokens' is 2; 2 of an input's tokens are special ones"),
        ({"dtype": "float16"}, "option 'dtype' is 'float16'"),
        ({"num_threads": "0"}, "option 'num_threads' is 0"),
    ],
)
async def test_wrong_option_is_refused(tmp_path: Path, options: dict[str, str], message: str) -> None:
    folder = write_encoder(tmp_path)

    with pytest.raises(InvalidInput, match=message):
        await load(folder, **options)


async def test_pooling_without_its_file_is_corrupt(tmp_path: Path) -> None:
    folder = write_sentence_files(write_encoder(tmp_path))
    (folder / "1_Pooling" / "config.json").unlink()

    with pytest.raises(CorruptArtifact, match=r"names 1_Pooling/config\.json, which does not exist"):
        await load(folder)


async def test_hostile_sizes_are_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    change_json(folder / "config.json", hidden_size=1 << 24, num_attention_heads=1)

    with pytest.raises(CorruptArtifact, match="its configuration needs"):
        await load(folder)
