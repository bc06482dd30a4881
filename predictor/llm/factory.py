"""What an engine process runs, and how it is made: a backend with weights, its vocabulary, and a few facts.

A factory is named as "module:function", so that the engine process can resolve it after it has started and the process
that asks for it need not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from predictor.llm.backend import Backend
from predictor.llm.guide import GuideMaker
from predictor.llm.kv_memory import free_memory_bytes
from predictor.llm.output_processor import Vocabulary
from predictor.llm.settings import EngineSettings

if TYPE_CHECKING:
    from predictor.llm.guides.maker import LlguidanceGuides
    from predictor.llm.models.config import ModelConfig
    from predictor.llm.tokenizer import Tokenizer

Progress = Callable[[str, float], None]
"""Called with the name of a stage and its share done, 0 to 1."""

PRODUCT_MODEL = "predictor.llm.factory:load_engine_model"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """dtype: of weights and activations. max_context_tokens: what the weights were made for.

    kv_cache_dtype: of keys and values; "" where it is `dtype`.
    """

    architecture: str
    num_layers: int
    vocab_size: int
    max_context_tokens: int
    dtype: str
    kv_cache_dtype: str = ""


@dataclass(frozen=True, slots=True)
class EngineModel:
    """free_bytes: memory that the KV cache may have a share of, where the backend allocates it.

    guides: makes guides for the vocabulary; None when outputs cannot be guided.
    """

    backend: Backend
    vocabulary: Vocabulary
    facts: ModelFacts
    free_bytes: Callable[[], int] = free_memory_bytes
    guides: GuideMaker | None = None


class ModelFactory(Protocol):
    """Loads the model at `path`, slowly, and says how far it is.

    Raises CorruptArtifact, Unsupported, NotFound, or InvalidInput for settings that do not fit the machine.
    """

    def __call__(self, path: Path, settings: EngineSettings, progress: Progress) -> EngineModel: ...


def load_engine_model(path: Path, settings: EngineSettings, progress: Progress) -> EngineModel:
    """The product's factory: computed by the native kernels where `settings.backend` and the machine let it, else by
    PyTorch."""
    from predictor.llm.native.loader import find_kernels, load_native

    library = find_kernels(path, settings)
    if library is None:
        return load_torch_model(path, settings, progress)
    loaded = load_native(
        path,
        library,
        num_threads=settings.num_threads or num_usable_cpus(),
        kv_cache_dtype=settings.kv_cache_dtype,
        progress=lambda done, total: progress("weights", done / max(total, 1)),
    )
    return _engine_model(loaded.backend, loaded.config, loaded.tokenizer, loaded.dtype, loaded.kv_cache_dtype)


def load_torch_model(path: Path, settings: EngineSettings, progress: Progress) -> EngineModel:
    """Weights, tokenizer and facts from a model file, computed with PyTorch."""
    import torch

    from predictor.llm.loader import load_model
    from predictor.llm.torch_backend import TorchBackend

    loaded = load_model(
        path,
        dtype=settings.dtype,
        device=settings.device,
        num_threads=settings.num_threads or num_usable_cpus(),
        progress=lambda done, total: progress("weights", done / max(total, 1)),
    )
    device = loaded.device
    dtype = str(loaded.dtype).removeprefix("torch.")
    model = _engine_model(TorchBackend(loaded), loaded.config, loaded.tokenizer, dtype)
    if device.type == "cuda":
        return replace(model, free_bytes=lambda: int(torch.cuda.mem_get_info(device)[0]))
    return model


def _engine_model(
    backend: Backend, config: ModelConfig, tokenizer: Tokenizer, dtype: str, kv_cache_dtype: str = ""
) -> EngineModel:
    facts = ModelFacts(
        architecture=config.architecture,
        num_layers=config.num_layers,
        vocab_size=tokenizer.vocab_size,
        max_context_tokens=config.max_context_tokens,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
    )
    guides = make_guides(tokenizer)
    if guides is not None:
        guides.warm_up()  # here, and not when the first guided request holds up the others
    return EngineModel(backend, tokenizer, facts, guides=guides)


def make_guides(tokenizer: Tokenizer) -> LlguidanceGuides | None:
    """A maker of guides for the vocabulary of `tokenizer`; None when no token of it could end a guided output."""
    from predictor.llm.guides.maker import LlguidanceGuides
    from predictor.llm.guides.vocabulary import guide_vocabulary

    return LlguidanceGuides(guide_vocabulary(tokenizer)) if tokenizer.eos_ids else None


def num_usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
