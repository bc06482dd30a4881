"""From a model's path to a model that PyTorch can run: configuration, weights, tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mesh.errors import InvalidInput
from predictor.llm.model_source import Progress, open_model
from predictor.llm.models import LanguageModel, find_architecture
from predictor.llm.models.config import ModelConfig
from predictor.llm.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, and what is needed to feed it. `dtype` is that of weights, activations and KV cache."""

    config: ModelConfig
    model: LanguageModel
    tokenizer: Tokenizer
    dtype: torch.dtype
    device: torch.device


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
