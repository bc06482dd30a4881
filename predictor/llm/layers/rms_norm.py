"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class RMSNorm:
    """x / rms(x) * weight over the last dimension, summed in float32 whatever the dtype of x."""

    def __init__(self, weight: Tensor, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        self._weight = weight.to(device, dtype)
        self._shape = tuple(weight.shape)
        self._eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self._shape, self._weight, self._eps)
