"""The predictor's own process, which serves two more kinds of model: identities of all datatypes.

    python -m tests.interop.identity_predictor FLAGS OF THE PREDICTOR

`identity` gives each input `<datatype>_in` back as `<datatype>_out`; `countdown` is decoupled, and gives as many
answers as its input `int64_in` says first. Everything else is the product's.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator

import numpy as np

from mesh import logs, tensors
from mesh.serve import run
from mesh.settings import load_settings
from predictor.__main__ import serve
from predictor.runtimes import RUNTIMES
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.settings import PredictorSettings

MAX_BATCH_SIZE = 8
MAX_ANSWERS = 64


def tensor_specs(suffix: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"{name.lower()}_{suffix}", name, (-1, -1), optional=True) for name in tensors.DATATYPES)


class Identity:
    """Inputs and outputs of shape [batch, any]; an input that is absent is answered as nothing, of shape [0, 0]."""

    is_decoupled = False
    memory_bytes = 1000

    @property
    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            platform="test_identity",
            backend="identity",
            inputs=tensor_specs("in"),
            outputs=tensor_specs("out"),
            max_batch_size=MAX_BATCH_SIZE,
            is_decoupled=self.is_decoupled,
        )

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        progress("load", 1, 1)

    async def warm(self) -> None:
        pass

    async def infer(self, inputs: Arrays) -> Arrays:
        return {
            f"{name.lower()}_out": inputs.get(f"{name.lower()}_in", np.empty((0, 0), datatype.dtype))
            for name, datatype in tensors.DATATYPES.items()
        }

    async def unload(self) -> None:
        pass


class Countdown(Identity):
    """Answers n times for `int64_in` [[n, …]], up to MAX_ANSWERS; each answer holds what is left."""

    is_decoupled = True

    async def infer_stream(self, inputs: Arrays) -> AsyncGenerator[Arrays, None]:
        counts = inputs.get("int64_in", np.empty((0, 0), np.int64))
        for left in range(min(int(counts.flat[0]) if counts.size else 0, MAX_ANSWERS), 0, -1):
            yield await self.infer({"int64_in": np.array([[left]])})


FORMATS = {
    "identity": "tests.interop.identity_predictor:Identity",
    "countdown": "tests.interop.identity_predictor:Countdown",
}


def main() -> int:
    settings = load_settings(PredictorSettings, prog="predictor")
    logs.configure("predictor", settings.log_level, settings.log_format)
    return run(lambda: serve(settings, {**RUNTIMES, **FORMATS}))


if __name__ == "__main__":
    sys.exit(main())
