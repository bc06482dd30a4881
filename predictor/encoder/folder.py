"""A model folder, opened for computing: configuration, tokenizer and weights, each checked before memory is taken.

Folders come from strangers. What is missing in one makes it corrupt: an encoder without its parts answers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import tokenizers
import torch

from mesh.errors import CorruptArtifact, InvalidInput, NotFound
from predictor.encoder.config import MAX_CONFIG_BYTES, EncoderConfig, parse_config
from predictor.encoder.model import Encoder, Weights, can_pack
from predictor.encoder.tokenizer import read_encoder
from predictor.llm.weights.json_object import JsonObject
from predictor.llm.weights.safetensors_checkpoint import SafetensorsCheckpoint

T = TypeVar("T")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MAX_SETTINGS_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """What a folder holds beside its weights. max_tokens: of one input; config_file: for what a head needs to know."""

    path: Path
    config_file: JsonObject
    config: EncoderConfig
    encoder: tokenizers.Tokenizer
    max_tokens: int

    def load(self, dtype: torch.dtype, build: Callable[[Encoder, Weights], T]) -> tuple[T, int]:
        """What `build` makes of the encoder and of more weights, and the bytes of all of them.

        Raises CorruptArtifact when a tensor is missing or has another shape, Unsupported for its element type.
        """
        with _all_there(self.path), SafetensorsCheckpoint(self.path, has_tied_embeddings=True) as checkpoint:
            weights = Weights(checkpoint, dtype, packs=can_pack(dtype))
            built = build(Encoder(self.config, weights), weights)
            return built, weights.num_bytes


def open_folder(path: Path) -> EncoderFolder:
    """Raises CorruptArtifact or Unsupported."""
    if not path.is_dir():
        raise CorruptArtifact(f"an encoder is a folder with config.json; '{path.name}' is no folder")
    with _all_there(path):
        config_file = JsonObject.read(path / "config.json", MAX_CONFIG_BYTES)
        config = parse_config(config_file)
        encoder = read_encoder(path, config.vocab_size)
        settings = JsonObject.read_optional(path / "tokenizer_config.json", MAX_SETTINGS_BYTES)
    # A tokenizer without a limit says so by a number of thirty digits.
    declared = settings.number("model_max_length", config.max_tokens)
    return EncoderFolder(path, config_file, config, encoder, int(min(config.max_tokens, max(declared, 1))))


def longest_input(asked: int, declared: int, config: EncoderConfig) -> int:
    """Tokens of one input: what an option asks for, if it is not 0, else what the model's files declare.

    Raises InvalidInput when there are no positions for that many.
    """
    if asked > config.max_tokens:
        raise InvalidInput(
            f"option 'max_tokens' is {asked}; the model has positions for {config.max_tokens} tokens",
            field="max_tokens",
        )
    return asked or min(declared, config.max_tokens)


@contextmanager
def _all_there(path: Path) -> Iterator[None]:
    """A file that is missing makes the folder corrupt."""
    try:
        yield
    except NotFound as error:
        raise CorruptArtifact(f"'{path.name}' is no encoder's folder: {error.message}") from error
