"""RMSNorm against its formula."""

from __future__ import annotations

import pytest
import torch

from predictor.llm.layers.rms_norm import RMSNorm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_equals_the_formula(dtype: torch.dtype, tolerance: float) -> None:
    weight = torch.rand(64) + 0.5
    x = (torch.randn(5, 64) * 20).to(dtype)
    exact = x.double() / (x.double().pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight.to(dtype).double()

    result = RMSNorm(weight, 1e-5, dtype, torch.device("cpu"))(x)

    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), exact, atol=tolerance, rtol=tolerance)
