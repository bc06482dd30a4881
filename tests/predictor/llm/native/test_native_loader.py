"""Which models the native kernels compute, and that whoever cannot have them is told why and served by PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mesh.errors import InvalidInput, Unsupported
from predictor.llm.factory import load_engine_model
from predictor.llm.native.backend import NativeBackend
from predictor.llm.native.compiler import build
from predictor.llm.native.library import NativeLibrary
from predictor.llm.native.loader import find_kernels, load_native
from predictor.llm.native.targets import FAST_CPU_FLAGS
from predictor.llm.settings import EngineSettings
from predictor.llm.torch_backend import TorchBackend
from tests.predictor.llm.gguf_files import SmallModel, write_small_model


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("models") / "small.gguf", SmallModel())


@pytest.fixture
def events() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]


def settings(artifact_cache_dir: Path, **changes: str) -> EngineSettings:
    return EngineSettings(cache_dir=str(artifact_cache_dir), num_threads=1, kv_cache_bytes=2**24, **changes)  # type: ignore[arg-type]


def fast() -> frozenset[str]:
    return FAST_CPU_FLAGS


def without_compiler(cache_dir: Path) -> Path:
    return build(cache_dir, prebuilt_dir=cache_dir / "none", find=lambda name: None)


def test_auto_takes_the_kernels(small_gguf: Path, artifact_cache_dir: Path) -> None:
    assert find_kernels(small_gguf, settings(artifact_cache_dir), flags=fast) is not None


@pytest.mark.parametrize(
    "changes", [{"backend": "torch"}, {"dtype": "float32"}, {"dtype": "bfloat16"}, {"device": "cuda"}], ids=str
)
def test_what_asks_for_torch_gets_it_without_a_word(
    small_gguf: Path, artifact_cache_dir: Path, changes: dict[str, str], events: list[dict[str, object]]
) -> None:
    assert find_kernels(small_gguf, settings(artifact_cache_dir, **changes), flags=fast) is None
    assert events == []


def test_without_a_compiler_auto_says_so_once_and_takes_torch(
    small_gguf: Path, artifact_cache_dir: Path, events: list[dict[str, object]]
) -> None:
    asked = settings(artifact_cache_dir)

    assert find_kernels(small_gguf, asked, flags=fast, compile_kernels=without_compiler) is None

    (event,) = events
    assert event["event"] == "native_backend_not_used" and "no C++ compiler" in str(event["reason"])


def test_an_old_cpu_takes_torch_by_itself_and_the_kernels_when_told(
    small_gguf: Path, artifact_cache_dir: Path, events: list[dict[str, object]]
) -> None:
    assert find_kernels(small_gguf, settings(artifact_cache_dir), flags=lambda: frozenset({"avx2"})) is None
    assert events[0]["reason"] == "this CPU lacks f16c, fma: PyTorch is faster"

    told = settings(artifact_cache_dir, backend="native")
    assert find_kernels(small_gguf, told, flags=frozenset) is not None


def test_native_without_a_compiler_is_refused(small_gguf: Path, artifact_cache_dir: Path) -> None:
    with pytest.raises(Unsupported, match=r"no C\+\+ compiler"):
        find_kernels(
            small_gguf, settings(artifact_cache_dir, backend="native"), flags=fast, compile_kernels=without_compiler
        )


@pytest.mark.parametrize(("field", "value"), [("dtype", "float32"), ("device", "cuda")])
def test_native_takes_no_other_dtype_or_device(
    small_gguf: Path, artifact_cache_dir: Path, field: str, value: str
) -> None:
    with pytest.raises(InvalidInput, match=f"{field} is '{value}'; the native backend takes only"):
        find_kernels(small_gguf, settings(artifact_cache_dir, backend="native", **{field: value}), flags=fast)


@pytest.mark.parametrize(("backend", "kind"), [("native", NativeBackend), ("torch", TorchBackend)])
def test_the_factory_follows_the_setting(
    small_gguf: Path, artifact_cache_dir: Path, backend: str, kind: type[object]
) -> None:
    model = load_engine_model(small_gguf, settings(artifact_cache_dir, backend=backend), lambda stage, share: None)

    assert isinstance(model.backend, kind)
    assert (model.facts.dtype == "int8+int8") == (backend == "native")


@pytest.mark.parametrize(("asked", "kept"), [("auto", "int8"), ("int8", "int8"), ("bfloat16", "bfloat16")])
def test_keys_and_values_are_kept_as_asked(small_gguf: Path, artifact_cache_dir: Path, asked: str, kept: str) -> None:
    chosen = settings(artifact_cache_dir, backend="native", kv_cache_dtype=asked)

    model = load_engine_model(small_gguf, chosen, lambda stage, share: None)

    assert model.facts.kv_cache_dtype == kept
    # 2 layers, keys and values, 2 KV heads, 16 slots of 16 dimensions; int8 has a scale for each slot as well.
    assert model.backend.block_bytes(16) == 2 * 2 * 2 * 16 * (16 + 4 if kept == "int8" else 32)


def test_progress_ends_with_all_that_is_stored(library: NativeLibrary, small_gguf: Path) -> None:
    told: list[tuple[int, int]] = []

    load_native(small_gguf, library, num_threads=1, progress=lambda done, total: told.append((done, total)))

    assert told[-1][0] == told[-1][1] > 0
