"""The predictor's own process, which serves one more kind of model: `hash`, whose weights are none.

    python -m tests.predictor.hash_predictor FLAGS OF THE PREDICTOR

Everything is the product's but the model and its tokenizer, so what hangs, dies and is watched is a real engine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mesh import logs
from mesh.serve import run
from mesh.settings import load_settings
from predictor.__main__ import serve
from predictor.runtimes.llm import LlmRuntime
from predictor.settings import PredictorSettings
from tests.predictor.llm.hash_model import EOS_ID, HashVocabulary
from tests.predictor.running import RunningPredictor, running_predictor

RUNTIMES = {"hash": "tests.predictor.hash_predictor:make_runtime"}


class HashTokenizer(HashVocabulary):
    """What the runtime asks of a tokenizer besides."""

    bos_id = None
    bos_token = None
    eos_id = EOS_ID
    eos_token = "<end>"
    chat_template = None

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return b"".join(map(self.id_to_bytes, ids)).decode(errors="replace")


def make_runtime() -> LlmRuntime:
    return LlmRuntime(
        make_guides=lambda tokenizer: None,
        factory="tests.predictor.llm.hash_model:load",
        read_tokenizer=lambda path: HashTokenizer(),
    )  # type: ignore[arg-type, return-value]


@asynccontextmanager
async def running_hash_predictor(
    folder: Path, *flags: str, step_s: float = 0.0, **options: object
) -> AsyncIterator[RunningPredictor]:
    """A predictor with the model `hash`, ready; `options` are those of the engine. step_s: a step takes so long."""
    (folder / "hash").write_text(str(step_s))
    deployment = {
        "name": "hash",
        "predictor": {
            "model_format": "hash",
            "storage_uri": (folder / "hash").as_uri(),
            "options": {name: str(value) for name, value in options.items()},
        },
    }
    (folder / "deployments.yaml").write_text(json.dumps({"deployments": [deployment]}))
    flags = ("--deployments", str(folder / "deployments.yaml"), *flags)
    async with running_predictor(folder, *flags, module="tests.predictor.hash_predictor") as predictor:
        await predictor.until_ready("hash")
        yield predictor


def main() -> int:
    settings = load_settings(PredictorSettings, prog="predictor")
    logs.configure("predictor", settings.log_level, settings.log_format)
    return run(lambda: serve(settings, RUNTIMES))


if __name__ == "__main__":
    sys.exit(main())
