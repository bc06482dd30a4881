"""From a model's path to its tokenizer: a folder has a `tokenizer.json`, a file is GGUF. Brings no torch along.

The predictor's own process reads only this; the weights are for the engine's.
"""

from __future__ import annotations

from pathlib import Path

from predictor.llm.gguf_tokenizer import build_tokenizer, read_spec
from predictor.llm.json_tokenizer import read_tokenizer_folder
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.weights.gguf import GgufFile


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model, without its weights: a fraction of a second.

    Raises NotFound, CorruptArtifact or Unsupported.
    """
    if path.is_dir():
        return read_tokenizer_folder(path)
    with GgufFile(path) as file:
        return build_tokenizer(read_spec(file))
