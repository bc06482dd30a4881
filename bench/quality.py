"""What the native backend's arithmetic costs in quality, against float32 PyTorch with the same weights.

    python -m bench.quality [--model FILE] [--num-tokens N]

The text is the first four chapters of "Pride and Prejudice" (Jane Austen, 1813; public domain), in windows of 1,024
tokens, each read from its beginning. Prints for the native backend with each form of its KV cache, and for PyTorch
in bfloat16 beside it, perplexity over that of float32, mean Kullback-Leibler divergence from it, and how often the
likeliest next token is the same. Exits with 1 when a native perplexity is more than 1 % above: a mode that loses more
is never the default.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.engine_steps import smollm2
from predictor.llm.factory import EngineModel, load_engine_model
from predictor.llm.layers.attention import KVCache, Span, plan_attention
from predictor.llm.loader import LoadedModel, load_model
from predictor.llm.native.backend import NativeBackend
from predictor.llm.readout import LOGIT_ROWS
from predictor.llm.settings import EngineSettings
from predictor.llm.step import Chunk, StepPlan

TEXT = Path(__file__).with_name("pride_and_prejudice.txt")
WINDOW = 1024
BLOCK_SIZE = 16
NUM_BLOCKS = WINDOW // BLOCK_SIZE
LIMIT = 1.01

# Reads a window of tokens, and gives the logits after some of them.
LogitsOf = Callable[[Sequence[int]], Tensor]
Reader = Callable[[Sequence[int]], LogitsOf]


@dataclass
class Sums:
    """Over all predicted tokens so far, in nats."""

    count: int = 0
    loss: float = 0.0
    divergence: float = 0.0
    same_top: int = 0

    def add(self, reference: Tensor, other: Tensor, targets: Tensor) -> None:
        """Log-probabilities [rows, vocab_size] of both, and the tokens that came."""
        self.count += len(targets)
        self.loss -= float(other.gather(1, targets.unsqueeze(1)).sum())
        self.divergence += float((reference.exp() * (reference - other)).sum())
        self.same_top += int((reference.argmax(1) == other.argmax(1)).sum())

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss / self.count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file or a model folder; SmolLM2-135M when left out")
    parser.add_argument("--num-tokens", type=int, default=4096)
    args = parser.parse_args()
    path = args.model or smollm2()
    native = {f"native, {kv} KV": load_native_model(path, kv) for kv in ("int8", "bfloat16")}
    reference = load_model(path, num_threads=torch.get_num_threads(), dtype="float32")
    readers = {
        "float32": torch_reader(reference),
        "bfloat16": torch_reader(load_model(path, num_threads=torch.get_num_threads(), dtype="bfloat16")),
        **{name: native_reader(model.backend) for name, model in native.items()},
    }
    token_ids = reference.tokenizer.encode(TEXT.read_text(encoding="utf-8"))[: args.num_tokens]
    sums = {name: Sums() for name in readers}
    for window in windows(token_ids):
        compare(window, readers, sums)
    return report(sums, native)


def load_native_model(path: Path, kv_cache_dtype: str) -> EngineModel:
    return load_engine_model(
        path, EngineSettings(backend="native", kv_cache_dtype=kv_cache_dtype), lambda stage, share: None
    )


def windows(token_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (token_ids[start : start + WINDOW] for start in range(0, len(token_ids) - 1, WINDOW))


@torch.inference_mode()
def compare(window: Sequence[int], readers: dict[str, Reader], sums: dict[str, Sums]) -> None:
    logits_of = {name: reader(window) for name, reader in readers.items()}
    for start in range(0, len(window) - 1, LOGIT_ROWS):
        rows = range(start, min(start + LOGIT_ROWS, len(window) - 1))
        targets = torch.tensor([window[row + 1] for row in rows])
        logprobs = {name: of(rows).double().log_softmax(1) for name, of in logits_of.items()}
        for name, theirs in logprobs.items():
            sums[name].add(logprobs["float32"], theirs, targets)


def torch_reader(loaded: LoadedModel) -> Reader:
    config = loaded.config

    def read(window: Sequence[int]) -> LogitsOf:
        cache = KVCache(
            config.num_layers, NUM_BLOCKS, BLOCK_SIZE, config.num_kv_heads, config.head_dim, loaded.dtype, loaded.device
        )
        metadata = plan_attention([Span(0, len(window), range(NUM_BLOCKS))], BLOCK_SIZE, loaded.dtype, loaded.device)
        hidden = loaded.model.forward(torch.tensor(window), torch.arange(len(window)), cache, metadata)
        return lambda rows: loaded.model.logits(hidden[torch.tensor(rows)])

    return read


def native_reader(backend: object) -> Reader:
    assert isinstance(backend, NativeBackend)
    backend.allocate(NUM_BLOCKS, BLOCK_SIZE)
    table = tuple(range(NUM_BLOCKS))

    def read(window: Sequence[int]) -> LogitsOf:
        backend.execute(StepPlan(0, (Chunk(0, tuple(window), 0, table, score_targets=(*window[1:], 0)),)))
        return lambda rows: torch.from_numpy(backend.logits(rows))

    return read


def report(sums: dict[str, Sums], native: Iterable[str]) -> int:
    base = sums["float32"]
    print(f"{base.count} predicted tokens; perplexity in float32 {base.perplexity:.3f}")
    print("| arithmetic | perplexity | KL | same top-1 |")
    print("|---|---|---|---|")
    for name, theirs in sums.items():
        ratio, divergence = theirs.perplexity / base.perplexity, theirs.divergence / base.count
        print(f"| {name} | {ratio:.4f} | {divergence:.4f} | {100 * theirs.same_top / base.count:.1f} % |")
    return 0 if all(sums[name].perplexity <= LIMIT * base.perplexity for name in native) else 1


if __name__ == "__main__":
    sys.exit(main())
