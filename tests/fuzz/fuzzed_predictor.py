"""The predictor's own process, with models that cost nothing: a fuzzer's time shall go into the protocols.

python -m tests.fuzz.fuzzed_predictor FLAGS OF THE PREDICTOR
"""

from __future__ import annotations

import sys

from mesh import logs
from mesh.serve import run
from mesh.settings import load_settings
from predictor.__main__ import serve
from predictor.runtimes import RUNTIMES
from predictor.settings import PredictorSettings
from tests.interop.identity_predictor import FORMATS

# A language model whose next token is a hash, in the real engine.
LANGUAGE_MODEL = {"llm": "tests.predictor.hash_predictor:make_runtime"}


def main() -> int:
    settings = load_settings(PredictorSettings, prog="predictor")
    logs.configure("predictor", settings.log_level, settings.log_format)
    return run(lambda: serve(settings, {**RUNTIMES, **FORMATS, **LANGUAGE_MODEL}))


if __name__ == "__main__":
    sys.exit(main())
