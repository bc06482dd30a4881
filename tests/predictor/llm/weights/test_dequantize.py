"""Dequantization against the `gguf` package, to the bit."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from predictor.llm.weights.dequantize import dequantize
from predictor.llm.weights.gguf import BlockFormat, GgufFile


@pytest.mark.parametrize("block_format", BlockFormat, ids=lambda block_format: block_format.name)
# As many blocks as are decoded at once, and some more.
@pytest.mark.parametrize("num_weights", [256, (1 << 18) + 1024])
def test_random_blocks_equal_the_gguf_package(block_format: BlockFormat, num_weights: int) -> None:
    num_blocks = num_weights // block_format.block_weights
    raw = np.random.default_rng(7).integers(0, 256, (num_blocks, block_format.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random scales are infinite or no number here and there
        reference = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[block_format.name])

    result = dequantize(raw.reshape(-1), block_format, (2, num_weights // 2))

    assert result.dtype == np.float32
    assert np.array_equal(result.reshape(-1), reference.reshape(-1), equal_nan=True)


def test_a_tensor_without_weights_is_empty() -> None:
    assert dequantize(np.empty(0, dtype=np.uint8), BlockFormat.Q4_1, (0, 32)).shape == (0, 32)


@pytest.mark.slow  # the gguf package takes seconds to open the file, and as long to dequantize it
def test_every_tensor_of_the_real_file_equals_the_gguf_package(smollm2_gguf: Path) -> None:
    reference = {t.name: t for t in gguf.GGUFReader(smollm2_gguf).tensors}

    with GgufFile(smollm2_gguf) as file:
        assert file.tensors.keys() == reference.keys()
        for name, info in file.tensors.items():
            expected = gguf.quants.dequantize(reference[name].data, reference[name].tensor_type)
            assert np.array_equal(dequantize(file.blocks(name), info.block_format, info.shape), expected), name
    assert len(reference) == 272
