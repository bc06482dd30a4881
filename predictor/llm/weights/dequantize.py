"""Turns GGML blocks into float32, one vectorised function per format.

A block holds 32 or 256 weights that share a scale. The layouts are those of ggml-quants.c; results equal
those of the `gguf` package to the bit. Nothing here knows files or models.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from predictor.llm.weights.gguf import BlockFormat

# Letters: N blocks in the tensor, B bytes per block.

# Temporaries of this many weights stay in the cache, and their memory is reused: fresh pages cost more than the sums.
_WEIGHTS_AT_ONCE = 1 << 18


def dequantize(blocks: npt.NDArray[np.uint8], block_format: BlockFormat, shape: tuple[int, ...]) -> Tensor:
    """A new float32 tensor of `shape` from the raw bytes of one; the size of `blocks` must fit `shape`."""
    tensor = torch.empty(shape, dtype=torch.float32)
    weights = tensor.view(-1, block_format.block_weights)  # [N, weights per block]
    raw = blocks.reshape(-1, block_format.block_bytes)  # [N, B]
    step = _WEIGHTS_AT_ONCE // block_format.block_weights
    for start in range(0, len(raw), step):
        # Copied, because torch cannot hold read-only memory.
        part = torch.from_numpy(raw[start : start + step].copy())
        weights[start : start + step] = _DECODERS[block_format](part)
    return tensor


def _f32(blocks: Tensor) -> Tensor:
    return blocks.view(torch.float32)


def _f16(blocks: Tensor) -> Tensor:
    return blocks.view(torch.float16)


def _bf16(blocks: Tensor) -> Tensor:
    return blocks.view(torch.bfloat16)


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 at byte `start` of each block as float32; [N, 1]."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """The low halves of all bytes, then the high halves; [..., B] → [..., 2 * B]."""
    return torch.cat((packed & 0x0F, packed >> 4), dim=-1)


def _q4_0(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 2:]).float().sub_(8).mul_(_half(blocks, 0))


def _q4_1(blocks: Tensor) -> Tensor:
    return _nibbles(blocks[:, 4:]).float().mul_(_half(blocks, 0)).add_(_half(blocks, 2))


def _q5_0(blocks: Tensor) -> Tensor:
    bit = torch.arange(8, dtype=torch.uint8)
    fifth = (blocks[:, 2:6, None] >> bit & 1).reshape(-1, 32)  # [N, 4, 8] → one bit per weight
    return (_nibbles(blocks[:, 6:]) | fifth << 4).float().sub_(16).mul_(_half(blocks, 0))


def _q8_0(blocks: Tensor) -> Tensor:
    return blocks[:, 2:].view(torch.int8).float().mul_(_half(blocks, 0))


def _q4_k(blocks: Tensor) -> Tensor:
    # 12 bytes hold eight 6-bit scales and eight 6-bit minima: the first four of each whole, the others as
    # low nibbles in the last four bytes and high bits on top of the first eight.
    scale_low, minimum_low, mixed = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((scale_low & 0x3F, mixed & 0x0F | scale_low >> 2 & 0x30), dim=-1)  # [N, 8]
    minima = torch.cat((minimum_low & 0x3F, mixed >> 4 | minimum_low >> 2 & 0x30), dim=-1)
    scales_f = (_half(blocks, 0) * scales.float()).unsqueeze(-1)  # [N, 8, 1]
    minima_f = (_half(blocks, 2) * minima.float()).unsqueeze(-1)
    weights = _nibbles(blocks[:, 16:].view(-1, 4, 32)).view(-1, 8, 32)
    return weights.float().mul_(scales_f).sub_(minima_f).view(-1, 256)


def _q6_k(blocks: Tensor) -> Tensor:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))  # [N, 2, 128]
    shift = torch.tensor((0, 2, 4, 6), dtype=torch.uint8).view(4, 1)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shift & 3  # [N, 2, 4, 32]
    weights = (low | high.reshape(-1, 2, 128) << 4).float() - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(torch.int8).float()  # [N, 16]
    return weights.view(-1, 16, 16).mul_(scales.unsqueeze(-1)).view(-1, 256)


_DECODERS: dict[BlockFormat, Callable[[Tensor], Tensor]] = {
    BlockFormat.F32: _f32,
    BlockFormat.F16: _f16,
    BlockFormat.BF16: _bf16,
    BlockFormat.Q4_0: _q4_0,
    BlockFormat.Q4_1: _q4_1,
    BlockFormat.Q5_0: _q5_0,
    BlockFormat.Q8_0: _q8_0,
    BlockFormat.Q4_K: _q4_k,
    BlockFormat.Q6_K: _q6_k,
}
