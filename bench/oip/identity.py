"""`python -m bench.oip.identity FLAG…`: the predictor with an identity model, which costs next to nothing itself.

What is measured is then the way to a model and back, as with the peers' identity models. Everything else is the
predictor as it is.
"""

from __future__ import annotations

import sys

from bench.oip.message import COLUMNS, INPUT, OUTPUT
from mesh import logs
from mesh.serve import run
from mesh.settings import load_settings
from predictor.__main__ import serve
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.settings import PredictorSettings

MODEL_FORMAT = "identity"
_SHAPE = (-1, COLUMNS)
_METADATA = ModelMetadata(
    platform="identity",
    backend="identity",
    inputs=(TensorSpec(INPUT, "FP32", _SHAPE),),
    outputs=(TensorSpec(OUTPUT, "FP32", _SHAPE),),
)


class IdentityRuntime:
    """Implements predictor.runtimes.base.Runtime."""

    metadata = _METADATA
    memory_bytes = 0

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        """There is nothing to load."""

    async def warm(self) -> None:
        """There is nothing to warm."""

    async def infer(self, inputs: Arrays) -> Arrays:
        return {OUTPUT: inputs[INPUT]}

    async def unload(self) -> None:
        """There is nothing to give back."""


def main() -> int:
    settings = load_settings(PredictorSettings, prog="predictor")
    logs.configure("predictor", settings.log_level, settings.log_format)
    return run(lambda: serve(settings, {MODEL_FORMAT: "bench.oip.identity:IdentityRuntime"}))


if __name__ == "__main__":
    sys.exit(main())
