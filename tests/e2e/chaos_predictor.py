"""The predictor's own process with models that cost nothing: chaos shall go into the mesh, not into computing.

    python -m tests.e2e.chaos_predictor FLAGS OF THE PREDICTOR

The language model `hash` says a hash of what it read, so that every mistake of a continuation shows; it takes its time
for a step, so that streams are long enough to be broken, and it can be guided as a real one. `identity` gives tensors
back.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from bench.chaos.scenario import Roughness, Scenario
from mesh import logs
from mesh.serve import run
from mesh.settings import load_settings
from mesh.tensors import Tensor
from predictor.__main__ import serve
from predictor.llm.factory import EngineModel, make_guides
from predictor.llm.settings import EngineSettings
from predictor.runtimes.llm import LlmRuntime
from predictor.settings import PredictorSettings
from tests.interop.identity_predictor import FORMATS
from tests.predictor.hash_predictor import HashTokenizer
from tests.predictor.llm import hash_model

STEP_S = 0.02
RUNTIMES = {**FORMATS, "llm": "tests.e2e.chaos_predictor:make_runtime"}
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "


class ChaosTokenizer(HashTokenizer):
    """One that knows a chat, and names its special tokens."""

    chat_template = TEMPLATE
    special_ids = frozenset(range(256, hash_model.VOCAB_SIZE))

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        if skip_special:
            return super().decode(ids)
        return "".join(f"<{each}>" if each in self.special_ids else HashTokenizer.decode(self, [each]) for each in ids)


def load(path: Path, settings: EngineSettings, progress: Callable[[str, float], None]) -> EngineModel:
    """The factory that an engine process is given."""
    model = hash_model.load(path, settings, progress)
    return dataclasses.replace(model, guides=make_guides(ChaosTokenizer()))  # type: ignore[arg-type]


def make_runtime() -> LlmRuntime:
    return LlmRuntime(factory="tests.e2e.chaos_predictor:load", read_tokenizer=lambda path: ChaosTokenizer())  # type: ignore[arg-type, return-value]


def chaos_scenario(folder: Path) -> Scenario:
    """Three such predictors, that start in a second or two. folder: gets what stands for the models."""
    (folder / "hash").write_text(str(STEP_S))
    (folder / "identity").write_bytes(b"no weights")
    deployments = (
        {
            "name": "hash",
            "predictor": {
                "model_format": "llm",
                "storage_uri": (folder / "hash").as_uri(),
                "options": {"kv_cache_bytes": str(16 << 20), "restart_delay_s": "0.1"},
            },
            "transformer": {"steps": ["chat_template"]},
        },
        {
            "name": "identity",
            "predictor": {"model_format": "identity", "storage_uri": (folder / "identity").as_uri()},
            "transformer": {},
        },
    )
    rows = Tensor("int64_in", "INT64", np.array([[1, -2, 3]]))
    roughness = Roughness(frozen_s=3.0, registry_away_s=1.0, away_s=(0.0, 0.5), settle_s=0.5)
    return Scenario(
        deployments,
        "hash",
        "identity",
        (rows,),
        predictor_module="tests.e2e.chaos_predictor",
        drain_s=0.2,
        timeout_s=90.0,
        start_s=120.0,
        roughness=roughness,
    )


def main() -> int:
    settings = load_settings(PredictorSettings, prog="predictor")
    logs.configure("predictor", settings.log_level, settings.log_format)
    return run(lambda: serve(settings, RUNTIMES))


if __name__ == "__main__":
    sys.exit(main())
