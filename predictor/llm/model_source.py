"""An open model, in whatever file it lies: its configuration, its tokenizer and its weights, each read when asked for.

A folder is a Hugging Face model (config.json, safetensors, tokenizer.json), a file is GGUF. Both come from strangers:
everything that they claim is checked before memory is taken for it. Knows no torch: who computes without it, starts
without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import CorruptArtifact
from predictor.llm.gguf_tokenizer import build_tokenizer, read_spec
from predictor.llm.json_tokenizer import read_tokenizer_folder
from predictor.llm.models import check_architecture
from predictor.llm.models.config import ModelConfig
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.weights.checkpoint import Checkpoint
from predictor.llm.weights.folder_config import has_tied_embeddings, parse_config, read_config_file
from predictor.llm.weights.gguf import GgufFile
from predictor.llm.weights.gguf_checkpoint import GgufCheckpoint, read_config
from predictor.llm.weights.safetensors_checkpoint import SafetensorsCheckpoint

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """An open model, whatever it lies in. Each part is read when it is asked for, and not kept."""

    read_config: Callable[[], ModelConfig]
    read_tokenizer: Callable[[], Tokenizer]
    open_checkpoint: Callable[[ModelConfig, Progress], AbstractContextManager[Checkpoint]]

    def read_matching(self, name: str) -> tuple[ModelConfig, Tokenizer]:
        """Configuration and tokenizer; CorruptArtifact, in the `name` of the model, when they do not fit together."""
        config, tokenizer = self.read_config(), self.read_tokenizer()
        if tokenizer.vocab_size > config.vocab_size:
            raise CorruptArtifact(
                f"{name}: the tokenizer has {tokenizer.vocab_size} tokens, the embedding only {config.vocab_size}"
            )
        return config, tokenizer


@contextmanager
def open_model(path: Path) -> Iterator[ModelSource]:
    """A model folder or a GGUF file. Raises NotFound, CorruptArtifact or Unsupported, and so do the parts."""
    if path.is_dir():
        yield _folder_source(path)
    else:
        with GgufFile(path) as file:
            yield _gguf_source(file)


def describe(path: Path) -> ModelConfig:
    """The configuration of a model, without its weights. Raises NotFound, CorruptArtifact or Unsupported."""
    with open_model(path) as source:
        return source.read_config()


def _folder_source(folder: Path) -> ModelSource:
    config_file = read_config_file(folder)

    def folder_config() -> ModelConfig:
        # The architecture comes first: it decides which of the other keys exist. So below.
        check_architecture(config_file.string("model_type"))
        return parse_config(config_file)

    def open_checkpoint(config: ModelConfig, progress: Progress) -> AbstractContextManager[Checkpoint]:
        return SafetensorsCheckpoint(folder, has_tied_embeddings=has_tied_embeddings(config_file), progress=progress)

    return ModelSource(folder_config, lambda: read_tokenizer_folder(folder), open_checkpoint)


def _gguf_source(file: GgufFile) -> ModelSource:
    def gguf_config() -> ModelConfig:
        check_architecture(file.string("general.architecture"))
        return read_config(file)

    def open_checkpoint(config: ModelConfig, progress: Progress) -> AbstractContextManager[Checkpoint]:
        return nullcontext(GgufCheckpoint(file, config, progress))

    return ModelSource(gguf_config, lambda: build_tokenizer(read_spec(file)), open_checkpoint)
