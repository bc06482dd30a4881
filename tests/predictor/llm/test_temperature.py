"""Temperature and min-p in plain floats, and an engine that needs no torch for them."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from predictor.llm.step import SamplingParams
from predictor.llm.temperature import inverse_temperature, min_p_threshold


@pytest.mark.parametrize("temperature", [2.0, 1e-3, 1e-45, 5e-324])
def test_the_inverse_is_a_normal_float32(temperature: float) -> None:
    inverse = inverse_temperature(SamplingParams(temperature=temperature))

    assert np.finfo(np.float32).tiny <= inverse <= np.finfo(np.float32).max
    assert math.isclose(inverse, 1 / temperature) or inverse == np.finfo(np.float32).max


def test_min_p_keeps_what_is_likely_enough() -> None:
    threshold = min_p_threshold(SamplingParams(temperature=0.5, min_p=0.25))

    assert math.isclose(math.exp(threshold / 0.5), 0.25)
    assert min_p_threshold(SamplingParams(min_p=0.0)) == -math.inf


def test_the_native_engine_imports_no_torch() -> None:
    code = "import sys, predictor.llm.native.loader, predictor.llm.worker; print('torch' in sys.modules)"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert run.stdout.strip() == "False"
