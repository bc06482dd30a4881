"""A tensor in the format of its file, for those who compute with the blocks as they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictor.llm.weights.dequantize import dequantize
from predictor.llm.weights.gguf import BlockFormat


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """`blocks`: uint8 [size_bytes], row after row; a view of the file where it can be, so good while that is open."""

    blocks: npt.NDArray[np.uint8]
    block_format: BlockFormat
    shape: tuple[int, ...]

    def to_float32(self) -> npt.NDArray[np.float32]:
        """A new array of `shape`."""
        return dequantize(self.blocks, self.block_format, self.shape)
