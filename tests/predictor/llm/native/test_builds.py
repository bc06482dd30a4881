"""Every build of the kernels gives the same bits, whatever instructions it may use: one CPU stands in for another.

Each is compared with the best one for this CPU, kernel by kernel and through a whole model. Builds that this CPU cannot
run are skipped.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from predictor.llm.native.compiler import build
from predictor.llm.native.library import KvFormat, NativeLibrary
from predictor.llm.native.packing import padded
from predictor.llm.native.targets import AVX2, AVX512, PORTABLE, Target, cpu_flags
from predictor.llm.weights.gguf import BlockFormat
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.native.test_kernels import FORMATS, PagedCache, both_formats, linear, random_matrix
from tests.predictor.llm.native.test_native_backend import execute, make_backend, random_prompt, scoring

# Two builds may have to be made first, on a busy machine.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", params=(PORTABLE, AVX2, AVX512), ids=lambda target: target.name)
def other(request: pytest.FixtureRequest, artifact_cache_dir: Path) -> NativeLibrary:
    target: Target = request.param
    missing = target.cpu_flags - cpu_flags()
    if missing:
        pytest.skip(f"this CPU lacks {', '.join(sorted(missing))}")
    return NativeLibrary(build(artifact_cache_dir, target=target))


@pytest.mark.parametrize("block_format", FORMATS, ids=lambda f: f.name)
def test_linear_layers(library: NativeLibrary, other: NativeLibrary, block_format: BlockFormat) -> None:
    x = np.random.default_rng(3).standard_normal((13, 576)).astype(np.float32)
    x[3], x[4, ::7] = 0, 1e30

    packed, results = [], []
    for kernels in (library, other):
        matrix, array, _ = random_matrix(kernels, block_format, 100, 576)
        packed.append(array)
        results.append(linear(kernels, matrix, x))

    np.testing.assert_array_equal(*packed)
    np.testing.assert_array_equal(*results)


def test_the_exponential(library: NativeLibrary, other: NativeLibrary) -> None:
    x = np.random.default_rng(4).uniform(-90, 0, 16_000).astype(np.float32)
    results = []
    for kernels in (library, other):
        out = np.empty_like(x)
        kernels.exponential(x, out)
        results.append(out)

    np.testing.assert_array_equal(*results)


def test_rms_norm(library: NativeLibrary, other: NativeLibrary) -> None:
    x, weight = np.random.default_rng(5).standard_normal((2, 1000)).astype(np.float32)
    results = []
    for kernels in (library, other):
        out = np.empty(1024, np.float32)
        kernels.rms_norm(padded(x), padded(weight), 1000, 1e-5, out)
        results.append(out)

    np.testing.assert_array_equal(*results)


@both_formats
def test_attention(library: NativeLibrary, other: NativeLibrary, kv_format: KvFormat) -> None:
    queries = np.random.default_rng(7).standard_normal((9, 64)).astype(np.float32)
    num_keys = [60, 61, 62, 63, 64, 65, 66, 67, 130]

    results = [
        PagedCache(kernels, 16, 3, 64, 130, kv_format).attend(2, queries, num_keys) for kernels in (library, other)
    ]

    np.testing.assert_array_equal(*results)


def test_odd_values_as_bfloat16(library: NativeLibrary, other: NativeLibrary) -> None:
    odd = np.array([1e-40, -1e-40, 0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1.1754944e-38, -3e38, 1.00390625, 3.4e38])
    caches = []
    for kernels in (library, other):
        cache = PagedCache(kernels, 16, 1, 12, 1, KvFormat.BFLOAT16)
        kernels.write_key_value(cache.shape, cache.memory, (0, 3, 0), odd.astype(np.float32), -odd.astype(np.float32))
        caches.append(cache.memory)

    np.testing.assert_array_equal(*caches)


@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_a_whole_model(library: NativeLibrary, other: NativeLibrary, tmp_path: Path, kind: str) -> None:
    path = write_small_model(tmp_path / "small.gguf", SmallModel(quantization=gguf.GGMLQuantizationType[kind]))
    prompt = random_prompt(70, 1)

    results = [execute(make_backend(kernels, path), scoring(prompt)) for kernels in (library, other)]

    assert results[0] == results[1]
