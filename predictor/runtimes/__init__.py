"""Runtimes: one module per kind of model behind one small protocol (`base.Runtime`). They know no gRPC.

A new kind of model is a module and a row in the first table; a row in the others lets `--model name=uri` find it.
"""

from __future__ import annotations

from collections.abc import Mapping

# model_format of a deployment → "module:Class"; the class takes no arguments and implements base.Runtime.
RUNTIMES: Mapping[str, str] = {
    "embedding": "predictor.runtimes.embedding:EmbeddingRuntime",
    "llm": "predictor.runtimes.llm:LlmRuntime",
    "reranker": "predictor.runtimes.reranker:RerankerRuntime",
    "python": "predictor.runtimes.python.runtime:PythonRuntime",
    "torch": "predictor.runtimes.torch_program:TorchRuntime",
    "sklearn": "predictor.runtimes.sklearn:SklearnRuntime",
    "xgboost": "predictor.runtimes.xgboost:XgboostRuntime",
    "lightgbm": "predictor.runtimes.lightgbm:LightgbmRuntime",
    "onnx": "predictor.runtimes.onnx:OnnxRuntime",
}

# How the name of a model's file ends → model_format.
FORMATS_BY_SUFFIX: Mapping[str, str] = {
    ".gguf": "llm",
    ".skops": "sklearn",
    ".joblib": "sklearn",
    ".pickle": "sklearn",
    ".pkl": "sklearn",
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".bst": "xgboost",
    ".txt": "lightgbm",
    ".lgb": "lightgbm",
    ".onnx": "onnx",
    ".pt2": "torch",
}

# What a folder holds (a glob) → model_format; the first that fits, and before the names of single files.
FORMATS_BY_FOLDER: Mapping[str, str] = {
    "config.json": "llm",
    "model.py": "python",
}
