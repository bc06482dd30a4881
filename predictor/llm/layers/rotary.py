"""Rotary position embedding (Su et al., 2021) in the half-split layout: dimension i turns with i + head_dim / 2."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from predictor.llm.models.config import ModelConfig

# Letters: N tokens, D head_dim.


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and signed sines of a batch's positions, the same for all layers and heads; [N, 1, D] each."""

    cos: Tensor
    sin: Tensor


class RotaryEmbedding:
    """Angles are computed from the positions of the batch, in float32: no table whose size a file could choose."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        frequencies = 1.0 / (config.rope_theta**exponents)
        if config.rope_frequency_factors:
            frequencies = frequencies / torch.tensor(config.rope_frequency_factors)
        self._frequencies = frequencies.to(device)
        self._dtype = dtype

    def rotation(self, positions: Tensor) -> Rotation:
        """positions: int64 [N]."""
        angles = positions.float().unsqueeze(1) * self._frequencies  # [N, D / 2]
        sin = angles.sin()
        cos = angles.cos().repeat(1, 2)
        return Rotation(cos.to(self._dtype).unsqueeze(1), torch.cat((-sin, sin), dim=1).to(self._dtype).unsqueeze(1))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the heads of x by the angles of their tokens; [N, heads, D] → a new tensor of that shape."""
    half = x.shape[-1] // 2
    swapped = x.roll(half, dims=-1)
    return torch.addcmul(x * rotation.cos, swapped, rotation.sin)
