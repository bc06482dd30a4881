"""The noise against the standard library's logarithm, and what it hangs on."""

from __future__ import annotations

import math
import random

import pytest

from predictor.llm.gumbel import gumbel_noise, logarithm, noise_stream
from predictor.llm.splitmix import GOLDEN, WORD, mix


def test_the_logarithm_is_the_standard_librarys_but_for_the_last_bits() -> None:
    rng = random.Random(1)
    edges = [2.0**-53, 1 - 2.0**-53, 0.5, 1.0, math.sqrt(0.5), math.nextafter(math.sqrt(0.5), 0), 36.74, 1e300]
    values = edges + [rng.random() for _ in range(10_000)] + [-math.log(rng.random()) for _ in range(10_000)]

    for x in values:
        assert logarithm(x) == pytest.approx(math.log(x), rel=1e-15, abs=3e-16), x


def test_noise_is_that_of_the_tokens_word() -> None:
    stream = noise_stream(7, 41)
    for token_id in range(1000):
        uniform = ((mix((stream + token_id * GOLDEN) & WORD) >> 12) + 0.5) * 2.0**-52

        assert gumbel_noise(stream, token_id) == pytest.approx(-math.log(-math.log(uniform)), rel=1e-13)


def test_noise_has_the_mean_and_the_deviation_of_gumbels_distribution() -> None:
    noise = [gumbel_noise(noise_stream(3, position), token_id) for position in range(100) for token_id in range(100)]
    mean = sum(noise) / len(noise)
    variance = sum((x - mean) ** 2 for x in noise) / len(noise)

    assert mean == pytest.approx(0.5772, abs=5 * math.pi / math.sqrt(6 * len(noise)))
    assert variance == pytest.approx(math.pi**2 / 6, rel=0.1)


def test_seeds_and_positions_have_streams_of_their_own() -> None:
    streams = {noise_stream(seed, position) for seed in range(100) for position in range(100)}

    assert len(streams) == 100 * 100
    assert noise_stream(-1, 3) == noise_stream(WORD, 3)
