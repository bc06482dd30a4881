"""What an engine process runs: a backend with weights, its vocabulary, and the facts that a caller may ask for.

A factory makes one; it is named as "module:function" so that the engine process can resolve it after it has started.
`load_torch_model` is the product's; tests name their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from predictor.llm.backend import Backend
from predictor.llm.output_processor import Vocabulary
from predictor.llm.settings import EngineSettings

Progress = Callable[[str, float], None]
"""Called with the name of a stage and its share done, 0 to 1."""

TORCH_MODEL = "predictor.llm.factory:load_torch_model"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """max_context_tokens: longest prompt and output that the weights were made for."""

    architecture: str
    num_layers: int
    vocab_size: int
    max_context_tokens: int


@dataclass(frozen=True, slots=True)
class EngineModel:
    backend: Backend
    vocabulary: Vocabulary
    facts: ModelFacts


class ModelFactory(Protocol):
    """Loads the model at `path`. Raises CorruptArtifact, Unsupported or NotFound; may be slow, and says how far it is."""

    def __call__(self, path: Path, settings: EngineSettings, progress: Progress) -> EngineModel: ...


def num_usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
