"""Decides whether a model is computed by the native kernels, and loads it for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from mesh.errors import DeadlineExceeded, InvalidInput, Unavailable, Unsupported
from predictor.llm.model_source import Progress, describe, open_model
from predictor.llm.models.config import ModelConfig
from predictor.llm.native.amx import use_amx
from predictor.llm.native.backend import NativeBackend
from predictor.llm.native.compiler import build
from predictor.llm.native.library import KvFormat, NativeLibrary
from predictor.llm.native.packing import ARCHITECTURES, pack_model
from predictor.llm.native.targets import FAST_CPU_FLAGS, cpu_flags
from predictor.llm.settings import EngineSettings
from predictor.llm.tokenizer import Tokenizer

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NativeModel:
    """dtype: of most weights, and of activations, as in "q4_1+int8". kv_cache_dtype: of keys and values."""

    backend: NativeBackend
    config: ModelConfig
    tokenizer: Tokenizer
    dtype: str
    kv_cache_dtype: str


def find_kernels(
    path: Path,
    settings: EngineSettings,
    *,
    flags: Callable[[], frozenset[str]] = cpu_flags,
    compile_kernels: Callable[[Path], Path] = build,
) -> NativeLibrary | None:
    """The kernels for the model at `path`, or None where PyTorch is to compute it; then the log says why, once.

    With backend "native" there is no way out: raises InvalidInput for settings that do not fit it, Unsupported or
    Unavailable for what is missing.
    """
    if settings.backend == "torch" or (settings.backend == "auto" and (settings.device, settings.dtype) != _DEFAULTS):
        return None
    try:
        _check(path, settings, flags())
        library_path = compile_kernels(Path(settings.cache_dir))
        library = NativeLibrary(library_path)
    except (Unsupported, Unavailable, DeadlineExceeded) as error:
        if settings.backend == "native":
            raise
        _log.warning("native_backend_not_used", reason=error.message)
        return None
    _log.info("native_kernels_loaded", path=str(library_path), min_amx_rows=use_amx(library, flags()))
    return library


_DEFAULTS = ("cpu", "auto")
# "auto": half the memory of bfloat16, and no perplexity that a measurement shows (docs/log.md).
KV_FORMATS = {"auto": KvFormat.INT8, "bfloat16": KvFormat.BFLOAT16, "int8": KvFormat.INT8}


def _check(path: Path, settings: EngineSettings, flags: frozenset[str]) -> None:
    for field, value, needed in zip(("device", "dtype"), (settings.device, settings.dtype), _DEFAULTS, strict=True):
        if value != needed:
            raise InvalidInput(f"{field} is {value!r}; the native backend takes only {needed!r}", field=field)
    missing = FAST_CPU_FLAGS - flags
    if missing and settings.backend == "auto":
        raise Unsupported(f"this CPU lacks {', '.join(sorted(missing))}: PyTorch is faster")
    architecture = describe(path).architecture
    if architecture not in ARCHITECTURES:
        raise Unsupported(f"the native backend does not compute {architecture!r}")


def load_native(
    path: Path, library: NativeLibrary, *, num_threads: int, progress: Progress, kv_cache_dtype: str = "auto"
) -> NativeModel:
    """Reads a model whole. Raises NotFound, CorruptArtifact or Unsupported."""
    kv_format = KV_FORMATS[kv_cache_dtype]
    with open_model(path) as source:
        config, tokenizer = source.read_matching(path.name)
        with source.open_checkpoint(config, progress) as checkpoint:
            packed = pack_model(library, config, checkpoint, num_threads, kv_format)
    backend = NativeBackend(library, config, packed, tokenizer.vocab_size)
    return NativeModel(backend, config, tokenizer, packed.dtype, kv_format.name.lower())
