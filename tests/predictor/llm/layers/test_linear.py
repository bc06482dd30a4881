"""Packed linear layers against the plain one, and row by row against themselves."""

from __future__ import annotations

import pytest
import torch

from predictor.llm.layers.linear import DenseLinear, PackedLinear, can_pack, make_linear

CPU = torch.device("cpu")
PACKED_DTYPES = [dtype for dtype in (torch.float32, torch.bfloat16) if can_pack(dtype)]


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_packed_equals_dense(dtype: torch.dtype, has_bias: bool) -> None:
    weight = (torch.randn(48, 1536) / 40).to(dtype)
    bias = torch.randn(48).to(dtype) if has_bias else None
    x = torch.randn(9, 1536).to(dtype)

    result = PackedLinear(weight, bias)(x)

    assert result.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(result, DenseLinear(weight, bias)(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", PACKED_DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), [(960, 576), (576, 1536), (3072, 576), (300, 64)])
def test_a_row_has_the_same_bits_in_any_batch(dtype: torch.dtype, outputs: int, inputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = PackedLinear((torch.randn(outputs, inputs, generator=generator) / inputs**0.5).to(dtype), None)
    x = torch.randn(32, inputs, generator=generator).to(dtype)
    alone = torch.cat([linear(x[row : row + 1]) for row in range(32)])

    for num_rows in (2, 3, 8, 17, 32):
        assert torch.equal(linear(x[:num_rows]), alone[:num_rows])


def test_other_dtypes_are_not_packed() -> None:
    weight = torch.randn(4, 8)

    assert isinstance(make_linear(weight, None, torch.float64, CPU), DenseLinear)
    assert not can_pack(torch.float64)
