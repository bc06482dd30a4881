"""An example of a model as a Python class, for the runtime `python`: scales rows to mean 0 and deviation 1.

    python -m examples.standard_scaler FOLDER

writes a model folder: this file as model.py, beside the numbers that it needs. The class itself imports nothing of
MeshServe, and can be tested like any other.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


class BadInput(ValueError):
    """Of any class with this name the message goes to the client, as INVALID_ARGUMENT."""


class StandardScaler:
    """scaled = (rows - mean) / deviation, by column."""

    inputs: ClassVar = {"rows": ("FP32", [-1, 3])}
    outputs: ClassVar = {"scaled": ("FP32", [-1, 3])}
    max_batch_size = 1024

    def load(self, folder: str) -> None:
        """Called once, before the first request, with the model's folder."""
        numbers = np.load(Path(folder) / "numbers.npz")
        self.mean, self.deviation = numbers["mean"], numbers["deviation"]

    def infer(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """rows: [n, 3] → scaled: [n, 3]."""
        rows = inputs["rows"]
        if not np.isfinite(rows).all():
            raise BadInput("rows must be finite numbers")
        return {"scaled": (rows - self.mean) / self.deviation}


def write(folder: Path) -> None:
    """Make the model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "model.py")
    columns = np.random.default_rng(0).normal([10, -2, 0.5], [3, 1, 0.1], (1000, 3)).astype(np.float32)
    np.savez(folder / "numbers.npz", mean=columns.mean(axis=0), deviation=columns.std(axis=0))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
