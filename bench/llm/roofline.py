"""What the machine allows: bytes over its measured bandwidth, multiplications over its measured rate (Williams et al.,
"Roofline", 2009). The larger of both times bounds a step from below; nothing else is in it, so nobody reaches it.

Counts are SmolLM2-135M's as its Q4_1 file has it: weights are read once a step, keys and values of a sequence's whole
context once a token, in int8 as MeshServe keeps them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict

from bench.llm.workloads import WORKLOADS, Workload

NUM_LAYERS, HIDDEN, INTERMEDIATE, NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 30, 576, 1536, 9, 3, 64
VOCAB = 49_152
_KV_PER_LAYER = 2 * HIDDEN * NUM_KV_HEADS * HEAD_DIM
_LINEAR_PER_LAYER = 2 * HIDDEN * NUM_HEADS * HEAD_DIM + _KV_PER_LAYER + 3 * HIDDEN * INTERMEDIATE
LINEAR_WEIGHTS = NUM_LAYERS * _LINEAR_PER_LAYER
LM_HEAD_WEIGHTS = VOCAB * HIDDEN
# Blocks of 32 weights: Q4_1 takes 20 bytes, Q8_0 34.
WEIGHT_BYTES = LINEAR_WEIGHTS * 20 // 32 + LM_HEAD_WEIGHTS * 34 // 32
# A key or a value of a head: a byte for each dimension, and a float32 scale.
KV_BYTES_PER_TOKEN = 2 * NUM_LAYERS * NUM_KV_HEADS * (HEAD_DIM + 4)
# MeshServe runs so many sequences at a time; the others of a burst wait.
MAX_BATCH = 128

_GEMM_SIZE = 1024
_REPEATS = 30


class Limits(BaseModel):
    """What was measured. read_gb_per_s: all threads, over as many bytes as the weights have; 1 GB is 1e9 bytes."""

    model_config = ConfigDict(frozen=True)

    read_gb_per_s: float
    bf16_tflops: float
    int8_tops: float


def measure() -> Limits:
    """Of this machine, with all threads; the best of some tries, a few seconds."""
    data = torch.ones(WEIGHT_BYTES // 4, dtype=torch.float32)
    out = torch.empty((), dtype=torch.float32)
    read_s = best_s(lambda: torch.sum(data, dim=0, out=out))
    wide = torch.ones(_GEMM_SIZE, _GEMM_SIZE, dtype=torch.bfloat16)
    narrow = torch.ones(_GEMM_SIZE, _GEMM_SIZE, dtype=torch.int8)
    operations = 2 * _GEMM_SIZE**3
    return Limits(
        read_gb_per_s=WEIGHT_BYTES / read_s / 1e9,
        bf16_tflops=operations / best_s(lambda: torch.mm(wide, wide)) / 1e12,
        int8_tops=operations / best_s(lambda: torch._int_mm(narrow, narrow)) / 1e12,
    )


def best_of(first: Limits | None, second: Limits) -> Limits:
    """The greater of each figure."""
    if first is None:
        return second
    return Limits(**{name: max(getattr(first, name), getattr(second, name)) for name in Limits.model_fields})


def best_s(call: Callable[[], object], repeats: int = _REPEATS) -> float:
    """The least seconds that `call` took."""
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


@dataclass(frozen=True, slots=True)
class Bound:
    """One workload at the machine's limits. prefill: of one prompt. step: one token of all sequences that run."""

    workload: str
    prefill_gflop: float
    prefill_ms: float
    step_mb: float
    step_gflop: float
    step_ms: float
    tokens_per_s: float


def bounds(limits: Limits) -> Iterator[Bound]:
    """Of the workloads whose requests are all alike."""
    for workload in WORKLOADS:
        if len(workload.prompt_tokens) == len(workload.output_tokens) == 1:
            yield bound_of(workload, limits)


def bound_of(workload: Workload, limits: Limits) -> Bound:
    """A batch of as many sequences as may run: each prompt is computed, then all step together to their end.

    A shared prefix is computed for nobody: what it costs once is left out. The first token comes with the prompt.
    """
    batch = min(workload.concurrency, MAX_BATCH)
    prompt, output, cached = workload.prompt_tokens[0], workload.output_tokens[0], workload.prefix_tokens
    context = cached + prompt + output / 2
    prefill_flop = flop(prompt, cached + prompt / 2, num_logits=1)
    prefill_s = seconds(limits, WEIGHT_BYTES + cached * KV_BYTES_PER_TOKEN, prefill_flop)
    step_bytes = WEIGHT_BYTES + batch * context * KV_BYTES_PER_TOKEN
    step_flop = flop(batch, context, num_logits=batch)
    step_s = seconds(limits, step_bytes, step_flop)
    # A batch's prompts can be computed together, so that the weights are read once for all of them.
    prefills_s = seconds(limits, WEIGHT_BYTES + batch * cached * KV_BYTES_PER_TOKEN, batch * prefill_flop)
    return Bound(
        workload=workload.name,
        prefill_gflop=prefill_flop / 1e9,
        prefill_ms=1e3 * prefill_s,
        step_mb=step_bytes / 1e6,
        step_gflop=step_flop / 1e9,
        step_ms=1e3 * step_s,
        tokens_per_s=batch * output / (prefills_s + (output - 1) * step_s),
    )


def flop(num_tokens: float, context: float, num_logits: float) -> float:
    """Multiplications and additions for tokens that each see `context` others; logits for `num_logits` of them.

    Of the last layer, tokens without logits need only their keys and values.
    """
    attention = 2 * NUM_HEADS * HEAD_DIM * context  # queries by keys, and weights by values
    layer = _LINEAR_PER_LAYER + attention
    whole = num_tokens * (NUM_LAYERS - 1) * layer + num_logits * (layer + LM_HEAD_WEIGHTS)
    return 2 * (whole + (num_tokens - num_logits) * _KV_PER_LAYER)


def seconds(limits: Limits, num_bytes: float, operations: float) -> float:
    """The larger of both times: reading and multiplying can overlap at best."""
    return max(num_bytes / (limits.read_gb_per_s * 1e9), operations / (limits.int8_tops * 1e12))
