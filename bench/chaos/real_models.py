"""The scenario of `make chaos-gateway`: SmolLM2 and the iris classifier, three predictors on one small machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.chaos.scenario import Scenario
from bench.engine_steps import SMOLLM2_SHA256, SMOLLM2_URI
from mesh.tensors import Tensor

LANGUAGE_MODEL = "smollm2"
TABLE_MODEL = "iris"


def real_models(iris_folder: Path) -> Scenario:
    """SmolLM2 and the iris classifier. Three engines share the machine: each gets one thread and a small KV cache."""
    options = {"num_threads": "1", "kv_cache_bytes": str(256 << 20), "max_context_tokens": "2048", "max_num_seqs": "32"}
    language_model = {
        "name": LANGUAGE_MODEL,
        "predictor": {
            "model_format": "llm",
            "storage_uri": SMOLLM2_URI,
            "sha256": SMOLLM2_SHA256,
            "model_version": "1",
            "options": options,
        },
        "transformer": {"steps": ["chat_template"]},
    }
    table_model = {
        "name": TABLE_MODEL,
        "predictor": {"model_format": "sklearn", "storage_uri": iris_folder.as_uri(), "model_version": "1"},
        "transformer": {},
    }
    rows = Tensor("input", "FP64", np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]))
    return Scenario((language_model, table_model), LANGUAGE_MODEL, TABLE_MODEL, (rows,))
