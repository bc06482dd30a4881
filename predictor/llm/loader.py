"""From a model's path to a model that can run: configuration, weights, tokenizer.

A folder is a Hugging Face model (config.json, safetensors, tokenizer.json), a file is GGUF. Both come from strangers:
everything that they claim is checked before memory is taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.llm.gguf_tokenizer import build_tokenizer, read_spec
from predictor.llm.json_tokenizer import read_tokenizer_folder
from predictor.llm.models import LanguageModel, find_architecture
from predictor.llm.models.config import ModelConfig
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.weights.checkpoint import Checkpoint
from predictor.llm.weights.folder_config import has_tied_embeddings, parse_config, read_config_file
from predictor.llm.weights.gguf import GgufFile
from predictor.llm.weights.gguf_checkpoint import GgufCheckpoint, read_config
from predictor.llm.weights.safetensors_checkpoint import SafetensorsCheckpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, and what is needed to feed it. `dtype` is that of weights, activations and KV cache."""

    config: ModelConfig
    model: LanguageModel
    tokenizer: Tokenizer
    dtype: torch.dtype
    device: torch.device


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


def load_model(
    path: Path,
    *,
    num_threads: int,
    dtype: str = "auto",
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
) -> LoadedModel:
    """Read a model whole.

    num_threads: CPU threads for torch in this process, set for good.
    dtype: "float32", "bfloat16", or "auto": bfloat16 where the CPU multiplies it in hardware, and on a GPU.
    progress: called with (bytes done, bytes in all) of the stored weights, as they are read.
    Raises NotFound, CorruptArtifact, Unsupported, or InvalidInput for a wrong dtype, device or thread count.
    """
    torch_device = _parse_device(device)
    torch_dtype = resolve_dtype(dtype, torch_device)
    if num_threads < 1:
        raise InvalidInput(f"num_threads is {num_threads}; it must be at least 1", field="num_threads")
    torch.set_num_threads(num_threads)
    with open_model(path) as source, torch.inference_mode():
        config, tokenizer = source.read_matching(path.name)
        with source.open_checkpoint(config, progress) as checkpoint:
            model = find_architecture(config.architecture)(config, checkpoint, torch_dtype, torch_device)
    return LoadedModel(config, model, tokenizer, torch_dtype, torch_device)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that a setting stands for on `device`; InvalidInput for an unknown name."""
    if name == "auto":
        fast = device.type != "cpu" or cpu_multiplies_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    if name not in DTYPES:
        raise InvalidInput(f"dtype is {name!r}; it must be one of auto, {', '.join(DTYPES)}", field="dtype")
    return DTYPES[name]


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has AMX or AVX-512 instructions for bfloat16: without them float32 is faster."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _parse_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"device is {name!r}; it must be cpu, cuda or cuda:<index>", field="device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device is {name!r}, but this process sees no CUDA device", field="device")
    return device


def _folder_source(folder: Path) -> ModelSource:
    config_file = read_config_file(folder)

    def folder_config() -> ModelConfig:
        # The architecture comes first: it decides which of the other keys exist. So below.
        find_architecture(config_file.string("model_type"))
        return parse_config(config_file)

    def open_checkpoint(config: ModelConfig, progress: Progress) -> AbstractContextManager[Checkpoint]:
        return SafetensorsCheckpoint(folder, has_tied_embeddings=has_tied_embeddings(config_file), progress=progress)

    return ModelSource(folder_config, lambda: read_tokenizer_folder(folder), open_checkpoint)


def _gguf_source(file: GgufFile) -> ModelSource:
    def gguf_config() -> ModelConfig:
        find_architecture(file.string("general.architecture"))
        return read_config(file)

    def open_checkpoint(config: ModelConfig, progress: Progress) -> AbstractContextManager[Checkpoint]:
        return nullcontext(GgufCheckpoint(file, config, progress))

    return ModelSource(gguf_config, lambda: build_tokenizer(read_spec(file)), open_checkpoint)
