"""Turns GGML blocks into float32, one vectorised function per format.

A block holds 32 or 256 weights that share a scale. The layouts are those of ggml-quants.c; results equal
those of the `gguf` package to the bit. Nothing here knows files or models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from predictor.llm.weights.gguf import BlockFormat

# Letters: N blocks in the tensor, B bytes per block.

# Temporaries of this many weights stay in the cache, and their memory is reused: fresh pages cost more than the sums.
_WEIGHTS_AT_ONCE = 1 << 18


Blocks: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]


def dequantize(blocks: Blocks, block_format: BlockFormat, shape: tuple[int, ...]) -> Floats:
    """A new float32 array of `shape` from the raw bytes of one; the size of `blocks` must fit `shape`."""
    values = np.empty(shape, np.float32)
    weights = values.reshape(-1, block_format.block_weights)  # [N, weights per block]
    raw = blocks.reshape(-1, block_format.block_bytes)  # [N, B]
    step = _WEIGHTS_AT_ONCE // block_format.block_weights
    # A file's scales may be infinite, or no number; whoever computes with the weights sees what comes of that.
    with np.errstate(all="ignore"):
        for start in range(0, len(raw), step):
            weights[start : start + step] = _DECODERS[block_format](raw[start : start + step])
    return values


def _f32(blocks: Blocks) -> Floats:
    return blocks.view(np.float32)


def _f16(blocks: Blocks) -> Floats:
    return blocks.view(np.float16).astype(np.float32)


def _bf16(blocks: Blocks) -> Floats:
    return (blocks.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _half(blocks: Blocks, start: int) -> Floats:
    """The float16 at byte `start` of each block as float32; [N, 1]."""
    return blocks[:, start : start + 2].copy().view(np.float16).astype(np.float32)


def _signed(octets: Blocks) -> Floats:
    return octets.view(np.int8).astype(np.float32)


def _nibbles(packed: Blocks) -> Blocks:
    """The low halves of all bytes, then the high halves; [..., B] → [..., 2 * B]."""
    return np.concatenate((packed & 0x0F, packed >> 4), axis=-1)


def _q4_0(blocks: Blocks) -> Floats:
    return (_nibbles(blocks[:, 2:]).astype(np.float32) - 8) * _half(blocks, 0)


def _q4_1(blocks: Blocks) -> Floats:
    return _nibbles(blocks[:, 4:]).astype(np.float32) * _half(blocks, 0) + _half(blocks, 2)


def _q5_0(blocks: Blocks) -> Floats:
    bit = np.arange(8, dtype=np.uint8)
    fifth = (blocks[:, 2:6, None] >> bit & 1).reshape(-1, 32)  # [N, 4, 8] → one bit per weight
    return ((_nibbles(blocks[:, 6:]) | fifth << 4).astype(np.float32) - 16) * _half(blocks, 0)


def _q8_0(blocks: Blocks) -> Floats:
    return _signed(blocks[:, 2:]) * _half(blocks, 0)


def _q4_k(blocks: Blocks) -> Floats:
    # 12 bytes hold eight 6-bit scales and eight 6-bit minima: the first four of each whole, the others as
    # low nibbles in the last four bytes and high bits on top of the first eight.
    scale_low, minimum_low, mixed = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate((scale_low & 0x3F, mixed & 0x0F | scale_low >> 2 & 0x30), axis=-1)  # [N, 8]
    minima = np.concatenate((minimum_low & 0x3F, mixed >> 4 | minimum_low >> 2 & 0x30), axis=-1)
    scales_f = (_half(blocks, 0) * scales.astype(np.float32))[..., None]  # [N, 8, 1]
    minima_f = (_half(blocks, 2) * minima.astype(np.float32))[..., None]
    weights = _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return (weights.astype(np.float32) * scales_f - minima_f).reshape(-1, 256)


def _q6_k(blocks: Blocks) -> Floats:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64))  # [N, 2, 128]
    shift = np.array((0, 2, 4, 6), np.uint8).reshape(4, 1)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shift & 3  # [N, 2, 4, 32]
    weights = (low | high.reshape(-1, 2, 128) << 4).astype(np.float32) - 32
    scales = _half(blocks, 208) * _signed(blocks[:, 192:208])  # [N, 16]
    return (weights.reshape(-1, 16, 16) * scales[..., None]).reshape(-1, 256)


_DECODERS: dict[BlockFormat, Callable[[Blocks], Floats]] = {
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
