"""The roofline's counts against the model's own file, and its arithmetic against a slow reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.llm import roofline
from bench.llm.roofline import Limits, best_of, bound_of, flop, seconds
from bench.llm.workloads import Workload

LIMITS = Limits(read_gb_per_s=30.0, bf16_tflops=1.0, int8_tops=2.0)


def test_weight_bytes_are_those_of_the_file(smollm2_gguf: Path) -> None:
    # The rest of the file is its vocabulary and the norms.
    assert 0.97 < roofline.WEIGHT_BYTES / smollm2_gguf.stat().st_size < 1.0


def test_operations_are_two_for_each_weight_and_each_key_and_value() -> None:
    slow = 0
    for _ in range(roofline.NUM_LAYERS):
        for rows, columns in ((576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)):
            slow += 2 * rows * columns
        slow += 2 * 9 * 100 * 64 + 2 * 9 * 100 * 64
    slow += 2 * 49_152 * 576

    assert flop(1, 100, num_logits=1) == slow


def test_tokens_without_logits_need_only_keys_and_values_of_the_last_layer() -> None:
    assert flop(10, 100, num_logits=1) == pytest.approx(
        flop(10, 100, num_logits=10)
        - 9 * 2 * (49_152 * 576 + 2 * 576 * 576 + 3 * 576 * 1536)
        - 9 * 2 * 2 * 9 * 64 * 100
    )


def test_a_step_takes_the_longer_of_reading_and_multiplying() -> None:
    assert seconds(LIMITS, 30e9, 1e12) == pytest.approx(1.0)
    assert seconds(LIMITS, 30e6, 4e12) == pytest.approx(2.0)


def test_one_sequence_is_bound_by_reading_the_weights_once_a_token() -> None:
    bound = bound_of(Workload("w", 1, 1, (30,), (64,)), LIMITS)

    assert bound.step_ms == pytest.approx((roofline.WEIGHT_BYTES + 62 * 12_240) / 30e9 * 1e3)
    assert bound.tokens_per_s == pytest.approx(64e3 / (bound.prefill_ms + 63 * bound.step_ms))


def test_a_burst_runs_in_batches_of_what_the_engine_takes() -> None:
    burst, batch = (bound_of(Workload("w", c, 200, (30,), (32,)), LIMITS) for c in (200, 128))

    assert burst == batch


def test_the_better_of_two_measurements_counts() -> None:
    other = Limits(read_gb_per_s=20.0, bf16_tflops=1.5, int8_tops=2.0)

    assert best_of(LIMITS, other) == Limits(read_gb_per_s=30.0, bf16_tflops=1.5, int8_tops=2.0)
    assert best_of(None, other) == other
