"""AMX: the kernels by a model of the tile instructions, to the bit; and that whoever cannot have them goes on without.

The simulated builds run amx.h as it is, on any CPU; only the six tile instructions are a model (tiles.h).
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from structlog.testing import capture_logs

from predictor.llm.native.amx import AMX_CPU_FLAGS, CANDIDATE_ROWS, Measure, measure_linear, use_amx
from predictor.llm.native.compiler import build
from predictor.llm.native.library import NativeLibrary
from predictor.llm.native.targets import AVX512_BF16, PORTABLE, best_target, cpu_flags
from predictor.llm.weights.gguf import BlockFormat
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.native.test_kernels import FORMATS, SHAPES, linear, random_matrix
from tests.predictor.llm.native.test_native_backend import execute, make_backend, random_prompt, scoring

Reasons = Callable[[], list[str]]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def simulated(artifact_cache_dir: Path) -> Path:
    """A library for this CPU with a model of the tile instructions in it."""
    target = best_target(cpu_flags())
    flags = (*target.compiler_flags, "-DSIMULATE_TILES")
    return build(artifact_cache_dir, target=replace(target, compiler_flags=flags))


@pytest.fixture
def amx_library(simulated: Path) -> Iterator[NativeLibrary]:
    """With AMX in use."""
    library = NativeLibrary(simulated)
    assert use_amx(library, AMX_CPU_FLAGS, always_faster) == CANDIDATE_ROWS[0]
    yield library
    simulate(simulated)
    library.set_min_amx_rows(0)


def always_faster(_library: NativeLibrary, _rows: int) -> tuple[float, float]:
    return 2.0, 1.0


def faster_from(fewest: int) -> Measure:
    """A CPU whose AMX pays from so many rows on."""
    return lambda _library, rows: (1.0, 0.5 if rows >= fewest else 0.99)


def simulate(simulated: Path, refusal: int = 0, error: int = 0) -> None:
    """What the system answers to who asks for AMX, and what its sums are off by."""
    ctypes.CDLL(str(simulated)).native_simulate(refusal, error)


@pytest.fixture
def reasons() -> Iterator[Reasons]:
    """Why AMX was not used, as often as it was said."""
    with capture_logs() as events:
        yield lambda: [event["reason"] for event in events if event["event"] == "amx_not_used"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block_format", FORMATS, ids=lambda f: f.name)
def test_linear_layers_have_the_bits_of_avx512(
    library: NativeLibrary, amx_library: NativeLibrary, block_format: BlockFormat, shape: tuple[int, int]
) -> None:
    matrix, _array, _ = random_matrix(library, block_format, *shape)
    x = np.random.default_rng(1).standard_normal((150, shape[1])).astype(np.float32)
    x[3], x[4, ::7], x[7] = 0, 1e30, -0.01
    expected = linear(library, matrix, x)

    for start, end in ((0, 150), (0, 4), (0, 5), (3, 11), (3, 12), (0, 33), (64, 128), (64, 97)):
        np.testing.assert_array_equal(linear(amx_library, matrix, x[start:end], 2), expected[start:end])


def test_a_whole_model_has_the_bits_of_avx512(
    library: NativeLibrary, amx_library: NativeLibrary, tmp_path: Path
) -> None:
    model = SmallModel(quantization=gguf.GGMLQuantizationType.Q4_1)
    path = write_small_model(tmp_path / "small.gguf", model)
    prompt = random_prompt(150, 1)

    results = [execute(make_backend(kernels, path, 2), scoring(prompt)) for kernels in (library, amx_library)]

    assert results[0] == results[1]


@pytest.mark.parametrize("block_format", FORMATS, ids=lambda f: f.name)
def test_amx_computes_many_rows_and_no_few(
    library: NativeLibrary, amx_library: NativeLibrary, simulated: Path, block_format: BlockFormat
) -> None:
    """Seen by sums that are off: else the tests above would compare AVX-512 with itself."""
    matrix, _array, _ = random_matrix(library, block_format, 16, 64)
    x = np.random.default_rng(2).standard_normal((37, 64)).astype(np.float32)
    right = linear(library, matrix, x)

    simulate(simulated, error=1)

    for rows in (5, 8, 32):
        assert (linear(amx_library, matrix, x[:rows]) != right[:rows]).any(axis=1).all()
    np.testing.assert_array_equal(linear(amx_library, matrix, x[:4]), right[:4])
    amx_library.set_min_amx_rows(0)
    np.testing.assert_array_equal(linear(amx_library, matrix, x), right)


def test_a_cpu_that_computes_other_bits_is_not_used(library: NativeLibrary, simulated: Path, reasons: Reasons) -> None:
    matrix, _array, _ = random_matrix(library, BlockFormat.Q4_1, 16, 64)
    x = np.random.default_rng(2).standard_normal((8, 64)).astype(np.float32)
    wrong = NativeLibrary(simulated)
    simulate(simulated, error=1)
    try:
        assert not use_amx(wrong, AMX_CPU_FLAGS, always_faster)
        np.testing.assert_array_equal(linear(wrong, matrix, x), linear(library, matrix, x))
    finally:
        simulate(simulated)

    assert reasons() == ["AMX and AVX-512 give different bits for Q4_1, 100 x 288"]


@pytest.mark.parametrize("fewest", CANDIDATE_ROWS)
def test_amx_computes_from_as_many_rows_on_as_it_pays(simulated: Path, fewest: int) -> None:
    library = NativeLibrary(simulated)
    matrix, _array, _ = random_matrix(library, BlockFormat.Q4_1, 16, 64)
    x = np.random.default_rng(2).standard_normal((fewest, 64)).astype(np.float32)
    right = linear(library, matrix, x)
    try:
        assert use_amx(library, AMX_CPU_FLAGS, faster_from(fewest)) == fewest
        simulate(simulated, error=1)
        assert (linear(library, matrix, x) != right).any(axis=1).all()
        np.testing.assert_array_equal(linear(library, matrix, x[:-1]), right[:-1])
    finally:
        simulate(simulated)
        library.set_min_amx_rows(0)


def test_amx_that_is_slower_is_not_used(simulated: Path, reasons: Reasons) -> None:
    """By the clock, for once: the model of the instructions is far slower than AVX-512."""
    library = NativeLibrary(simulated)

    without, simulated_amx = measure_linear(library, CANDIDATE_ROWS[-1])
    assert 0 < without < simulated_amx
    assert use_amx(library, AMX_CPU_FLAGS) == 0

    assert "it is not faster here" in reasons()[0]


def test_a_system_that_refuses_is_named_once(simulated: Path, reasons: Reasons) -> None:
    """As in a container whose seccomp profile does not know the call."""
    simulate(simulated, refusal=errno.EPERM)
    try:
        assert not use_amx(NativeLibrary(simulated), AMX_CPU_FLAGS)
    finally:
        simulate(simulated)

    assert reasons() == ["the system does not let this process use AMX: Operation not permitted"]


def test_a_library_without_the_kernels_says_so(artifact_cache_dir: Path, reasons: Reasons) -> None:
    library = NativeLibrary(build(artifact_cache_dir, target=PORTABLE))

    assert not use_amx(library, AMX_CPU_FLAGS)

    assert reasons() == ["the library has no kernels for AMX"]


@pytest.mark.parametrize("flags", [frozenset(), frozenset({"amx_tile", "amx_bf16"})])
def test_a_cpu_without_it_goes_on_without_a_word(
    library: NativeLibrary, flags: frozenset[str], reasons: Reasons
) -> None:
    assert not use_amx(library, flags)
    assert reasons() == []


def test_the_real_instructions_are_asked_for_and_refused_where_there_are_none(
    artifact_cache_dir: Path, reasons: Reasons
) -> None:
    """The kernel's own answer on a CPU without AMX, whatever the caller thinks of the CPU."""
    missing = AVX512_BF16.cpu_flags - cpu_flags()
    if missing or cpu_flags() >= AMX_CPU_FLAGS:
        pytest.skip("this needs a CPU with AVX-512 for bfloat16, and without AMX")

    assert not use_amx(NativeLibrary(build(artifact_cache_dir, target=AVX512_BF16)), AMX_CPU_FLAGS)

    (reason,) = reasons()
    assert "does not let this process use AMX" in reason


def test_amx_of_this_machine(artifact_cache_dir: Path, reasons: Reasons) -> None:
    if not cpu_flags() >= AMX_CPU_FLAGS:
        pytest.skip("this CPU has no AMX")

    is_used = use_amx(NativeLibrary(build(artifact_cache_dir)), cpu_flags())

    assert is_used or any(words in reasons()[0] for words in ("does not let this process", "not faster here"))
