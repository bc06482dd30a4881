"""The port through which a model gets its weights, whatever file they are in.

Names and layouts are those of the `transformers` checkpoints (`model.layers.0.self_attn.q_proj.weight`, [out, in]): a
reader of another format translates. Weights are taken one at a time, so that a model never exists twice in memory.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from predictor.llm.weights.stored_tensor import StoredTensor


class Checkpoint(Protocol):
    """Named tensors, as float32 or as they are stored."""

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds a tensor of that name."""
        ...

    def take(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """A new float32 array; CorruptArtifact when it is missing or has another shape."""
        ...

    def take_stored(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """The same tensor in the format of the file; raises alike."""
        ...
