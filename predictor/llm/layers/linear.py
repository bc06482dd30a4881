"""y = x Wᵀ + b. On the CPU the weight is packed once into oneDNN's blocked layout.

Packing reads weights a third faster than F.linear at batch 1 and, unlike MKL's float32 GEMM, gives a row the same bits
whatever other rows are in the batch: with a seed, a request's tokens do not depend on its neighbours.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN cuts longer sums by the number of rows, so that a row's bits would depend on its neighbours. Cut here, always
# in the same place, they do not; and float32 comes out as near to exact as MKL's, which one long sum does not.
_MAX_SUM = 1024


class Linear(Protocol):
    """[rows, in_features] → [rows, out_features]."""

    def __call__(self, x: Tensor) -> Tensor: ...


def make_linear(weight: Tensor, bias: Tensor | None, dtype: torch.dtype, device: torch.device) -> Linear:
    """A linear layer that computes in `dtype` on `device`; weight is [out_features, in_features]."""
    weight = weight.to(device, dtype)
    bias = None if bias is None else bias.to(device, dtype)
    if device.type == "cpu" and can_pack(dtype):
        return PackedLinear(weight, bias)
    return DenseLinear(weight, bias)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's packed linear for `dtype` on this CPU."""
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):  # a build without oneDNN
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class DenseLinear:
    """The reference: any device, any dtype."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedLinear:
    """oneDNN's packed linear for the CPU. Bitwise the same for a row in any batch."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        in_features = weight.shape[1]
        num_parts = -(-in_features // _MAX_SUM)
        part_size = -(-in_features // num_parts)
        self._parts = [
            (slice(start, start + part_size), _pack(weight[:, start : start + part_size]))
            for start in range(0, in_features, part_size)
        ]
        self._bias = bias
        # Bound here because looking an operator up costs as much as a small one.
        self._linear = torch.ops.mkldnn._linear_pointwise.default
        self._linear_and_add = torch.ops.mkldnn._linear_pointwise.binary

    def __call__(self, x: Tensor) -> Tensor:
        if len(self._parts) == 1:
            return self._first_part(x, self._parts[0][1])
        columns, packed = self._parts[0]
        y = self._first_part(x[:, columns], packed)
        for columns, packed in self._parts[1:]:
            y = self._linear_and_add(x[:, columns], y, packed, None, "add")
        return y

    def _first_part(self, x: Tensor, packed: Tensor) -> Tensor:
        y: Tensor = self._linear(x, packed, self._bias, "none", [], "")
        return y


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    return packed
