"""Which models the native kernels compute, and that whoever cannot have them is told why and served by PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mesh.errors import InvalidInput, Unsupported
from predictor.llm.factory import load_engine_model
from predictor.llm.native.backend import NativeBackend
from predictor.llm.native.compiler import build, prebuilt_path
from predictor.llm.native.library import NativeLibrary
from predictor.llm.native.loader import find_kernels, load_native
from predictor.llm.native.targets import FAST_CPU_FLAGS, Target, best_target, cpu_flags
from predictor.llm.settings import EngineSettings
from predictor.llm.step import Chunk, Draw, SamplingParams, StepPlan
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


def without_a_new_compiler(cache_dir: Path) -> Path:
    return build(cache_dir, target=Target("other", ("-march=unheard-of",), frozenset()))


def with_a_damaged_library_only(cache_dir: Path) -> Path:
    target = best_target(cpu_flags())
    prebuilt_path(target, cache_dir).write_bytes(b"\x7fELF half a library")
    return build(cache_dir, target=target, prebuilt_dir=cache_dir, find=lambda name: None)


def with_a_library_for_something_else(cache_dir: Path) -> Path:
    path = cache_dir / "other.so"
    path.write_bytes(b"no library")
    return path


@pytest.mark.parametrize(
    ("compile_kernels", "reason"),
    [
        (without_compiler, r"there is no C\+\+ compiler"),
        (without_a_new_compiler, "cannot compile the kernels: .*unheard-of"),
        (lambda cache_dir: build(Path("/proc")), "cannot be kept in /proc/native"),
        (with_a_damaged_library_only, r"there is no C\+\+ compiler"),
        (with_a_library_for_something_else, "cannot be loaded"),
    ],
    ids=["no compiler", "old compiler", "no disk", "damaged", "no library"],
)
def test_whatever_is_missing_is_said_once_and_torch_takes_over(
    small_gguf: Path,
    tmp_path: Path,
    compile_kernels: Callable[[Path], Path],
    reason: str,
    events: list[dict[str, object]],
) -> None:
    assert find_kernels(small_gguf, settings(tmp_path), flags=fast, compile_kernels=compile_kernels) is None

    (said,) = [event for event in events if event["event"] == "native_backend_not_used"]
    assert re.search(reason, str(said["reason"]))


def test_torch_answers_where_the_kernels_cannot(small_gguf: Path, artifact_cache_dir: Path) -> None:
    """Nothing can be kept in /proc."""
    plan = StepPlan(0, (Chunk(0, tuple(range(5, 45)), 0, (0, 1, 2), (Draw(SamplingParams(temperature=0)),)),))
    results = []
    for asked in (settings(Path("/proc")), settings(artifact_cache_dir, backend="torch")):
        backend = load_engine_model(small_gguf, asked, lambda stage, share: None).backend
        assert isinstance(backend, TorchBackend)
        backend.allocate(3, 16)
        results.append(backend.execute(plan))

    assert results[0] == results[1]


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
