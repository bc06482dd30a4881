"""The predictor's own process, with models for every row of the outcomes table beside a real one.

    python -m tests.contract.outcome_predictor FLAGS OF THE PREDICTOR

Everything is the product's but the models `identity`, `countdown`, `fixed` and `broken`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.train_iris import train
from mesh import logs
from mesh.serve import run
from mesh.settings import load_settings
from predictor.__main__ import serve
from predictor.runtimes import RUNTIMES
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.settings import PredictorSettings
from tests.predictor.fake_runtime import IdentityRuntime
from tests.predictor.running import RunningPredictor, running_predictor

MODELS = {
    **RUNTIMES,
    "identity": "tests.predictor.fake_runtime:IdentityRuntime",
    "countdown": "tests.predictor.fake_runtime:CountdownRuntime",
    "fixed": "tests.contract.outcome_predictor:FixedRuntime",
    "broken": "tests.contract.outcome_predictor:BrokenRuntime",
}


class FixedRuntime(IdentityRuntime):
    """A model whose shapes have nothing free: FP32 [2, 3] in and out."""

    metadata = ModelMetadata(  # type: ignore[assignment]
        platform="test_fixed",
        backend="fixed",
        inputs=(TensorSpec("x", "FP32", (2, 3)),),
        outputs=(TensorSpec("y", "FP32", (2, 3)),),
    )

    async def infer(self, inputs: Arrays) -> Arrays:
        return {"y": inputs["x"]}


class BrokenRuntime(IdentityRuntime):
    """Does not load."""

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        raise RuntimeError("a bug in /secret/path")


@contextmanager
def running_outcome_predictor(folder: Path) -> Iterator[RunningPredictor]:
    """A predictor with all models above, and `iris`, each tried once."""
    train(folder / "iris")
    (folder / "nothing").write_bytes(b"nothing")
    deployments = [
        {"name": name, "predictor": {"model_format": kind, "storage_uri": (folder / artifact).as_uri()}}
        for name, kind, artifact in (
            ("iris", "sklearn", "iris"),
            *((name, name, "nothing") for name in ("identity", "countdown", "fixed", "broken")),
        )
    ]
    (folder / "deployments.yaml").write_text(json.dumps({"deployments": deployments}))
    flags = ("--deployments", str(folder / "deployments.yaml"))
    with asyncio.Runner() as runner:
        running = running_predictor(folder, *flags, module="tests.contract.outcome_predictor")
        predictor = runner.run(running.__aenter__())
        try:
            for name in ("iris", "identity", "countdown", "fixed"):
                runner.run(predictor.until_ready(name))
            yield predictor
        finally:
            runner.run(running.__aexit__(None, None, None))


def main() -> int:
    settings = load_settings(PredictorSettings, prog="predictor")
    logs.configure("predictor", settings.log_level, settings.log_format)
    return run(lambda: serve(settings, MODELS))


if __name__ == "__main__":
    sys.exit(main())
