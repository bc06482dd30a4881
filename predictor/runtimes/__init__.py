"""Runtimes: one module per kind of model behind one small protocol (`base.Runtime`). They know no gRPC.

A new kind of model is a module and a row in this table.
"""

from __future__ import annotations

from collections.abc import Mapping

# model_format of a deployment → "module:Class"; the class takes no arguments and implements base.Runtime.
RUNTIMES: Mapping[str, str] = {
    "embedding": "predictor.runtimes.embedding:EmbeddingRuntime",
    "llm": "predictor.runtimes.llm:LlmRuntime",
    "reranker": "predictor.runtimes.reranker:RerankerRuntime",
    "sklearn": "predictor.runtimes.sklearn:SklearnRuntime",
}
