"""From a model file to a model that can run: configuration, weights, tokenizer.

The only place that knows which file format leads where. Reads untrusted files: everything that the file claims is
checked before memory is taken for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.llm.models import LanguageModel, find_architecture
from predictor.llm.models.config import ModelConfig
from predictor.llm.tokenizer import Tokenizer, read_spec
from predictor.llm.weights.gguf import GgufFile
from predictor.llm.weights.gguf_checkpoint import GgufCheckpoint, read_config

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


def describe(path: Path) -> ModelConfig:
    """The configuration in a model file, without its weights. Raises NotFound, CorruptArtifact or Unsupported."""
    with GgufFile(path) as file:
        return _read_config(file)


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a model file, without its weights: a fraction of a second. Raises as `describe` does."""
    with GgufFile(path) as file:
        return _read_tokenizer(file)


def load_model(
    path: Path,
    *,
    num_threads: int,
    dtype: str = "auto",
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
) -> LoadedModel:
    """Read a model file whole.

    num_threads: CPU threads for torch in this process, set for good.
    dtype: "float32", "bfloat16", or "auto": bfloat16 where the CPU multiplies it in hardware, and on a GPU.
    progress: called with (bytes done, bytes in all) of the file's weights, as they are read.
    Raises NotFound, CorruptArtifact, Unsupported, or InvalidInput for a wrong dtype, device or thread count.
    """
    torch_device = _parse_device(device)
    torch_dtype = resolve_dtype(dtype, torch_device)
    if num_threads < 1:
        raise InvalidInput(f"num_threads is {num_threads}; it must be at least 1", field="num_threads")
    torch.set_num_threads(num_threads)
    with GgufFile(path) as file, torch.inference_mode():
        config = _read_config(file)
        tokenizer = _read_tokenizer(file)
        if tokenizer.vocab_size > config.vocab_size:
            raise CorruptArtifact(
                f"{file.name}: the tokenizer has {tokenizer.vocab_size} tokens, the embedding only {config.vocab_size}"
            )
        checkpoint = GgufCheckpoint(file, config, progress)
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


def _read_config(file: GgufFile) -> ModelConfig:
    # The architecture comes first: its name decides which of the other keys exist.
    find_architecture(file.string("general.architecture"))
    return read_config(file)


def _read_tokenizer(file: GgufFile) -> Tokenizer:
    return Tokenizer(read_spec(file))
