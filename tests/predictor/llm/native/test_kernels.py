"""Each kernel against a slow and obvious twin in numpy, on random shapes and the awkward ones.

The twins repeat the kernels' formulas: int8 activations in groups of 32, float32 scales, bfloat16 keys and values.
"""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from predictor.llm.native.library import CacheShape, KvFormat, Matrix, NativeLibrary
from predictor.llm.native.packing import pack_matrix, padded
from predictor.llm.weights.gguf import BlockFormat
from predictor.llm.weights.stored_tensor import StoredTensor

Floats = npt.NDArray[np.float32]

FORMATS = (BlockFormat.Q4_0, BlockFormat.Q4_1, BlockFormat.Q8_0, BlockFormat.F32)
# (rows, columns): one row, rows that are no multiple of 16, an odd number of groups, SmolLM2's own.
SHAPES = ((1, 32), (5, 96), (16, 64), (33, 576), (250, 160), (576, 1536))


def random_matrix(library: NativeLibrary, block_format: BlockFormat, rows: int, columns: int, seed: int = 0):  # type: ignore[no-untyped-def]
    """(packed matrix, the array that holds it, its values as float32)."""
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
    kind = gguf.GGMLQuantizationType[block_format.name]
    stored = values.view(np.uint8) if block_format is BlockFormat.F32 else gguf.quants.quantize(values, kind)
    exact = values if block_format is BlockFormat.F32 else gguf.quants.dequantize(stored, kind)
    matrix, array, _ = pack_matrix(library, StoredTensor(stored.reshape(-1), block_format, (rows, columns)))
    return matrix, array, exact


def linear(library: NativeLibrary, matrix: Matrix, x: Floats, num_threads: int = 1) -> Floats:
    out = np.full((len(x), matrix.rows), np.nan, np.float32)
    library.linear(matrix, np.stack([padded(row) for row in x]), num_threads, out)
    return out


def quantized(x: Floats) -> Floats:
    """What is left of activations as int8 with one scale per group of 32."""
    groups = np.stack([padded(row) for row in x]).reshape(len(x), -1, 32)
    scale = np.abs(groups).max(axis=2, keepdims=True) / np.float32(127)
    safe = np.where(scale == 0, 1, scale)
    return (np.rint(groups / safe) * scale).reshape(len(x), -1)[:, : x.shape[1]].astype(np.float32)


def read_rows(library: NativeLibrary, matrix: Matrix) -> Floats:
    out = np.empty((matrix.rows, -(-matrix.columns // 32) * 32), np.float32)
    for row in range(matrix.rows):
        library.read_row(matrix, row, out[row])
    return out[:, : matrix.columns]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("block_format", FORMATS, ids=lambda f: f.name)
def test_a_linear_layer_is_the_product_with_quantized_activations(
    library: NativeLibrary, block_format: BlockFormat, shape: tuple[int, int]
) -> None:
    matrix, _array, _ = random_matrix(library, block_format, *shape)
    x = np.random.default_rng(1).standard_normal((11, shape[1])).astype(np.float32)

    result = linear(library, matrix, x)

    # Against the weights as they are kept, in float64: what is left is the rounding of float32 sums, and of the one or
    # two activations in thousands that lie so near a half that they round another way.
    expected = quantized(x).astype(np.float64) @ read_rows(library, matrix).T.astype(np.float64)
    assert np.abs(result - expected).max() < 2e-3 * np.abs(expected).max()
    assert np.median(np.abs(result - expected)) < 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("block_format", [BlockFormat.Q4_0, BlockFormat.Q4_1, BlockFormat.Q8_0], ids=lambda f: f.name)
def test_quantized_weights_are_kept_to_the_bit(library: NativeLibrary, block_format: BlockFormat) -> None:
    matrix, _array, exact = random_matrix(library, block_format, 37, 96)

    np.testing.assert_array_equal(read_rows(library, matrix), exact)


def test_other_weights_become_int8_with_a_scale_per_group(library: NativeLibrary) -> None:
    matrix, _array, exact = random_matrix(library, BlockFormat.F32, 37, 72)

    largest = np.abs(np.pad(exact, ((0, 0), (0, 24))).reshape(37, 3, 32)).max(axis=2)
    error = np.abs(read_rows(library, matrix) - exact)
    # Half a step of the largest of the group over 127, and what the scale loses as float16.
    assert (error <= np.repeat(largest, 32, axis=1)[:, :72] / 127 * (0.5 + 2**-9)).all()


@pytest.mark.parametrize("block_format", FORMATS, ids=lambda f: f.name)
def test_a_row_has_the_same_bits_in_any_batch_and_on_any_number_of_threads(
    library: NativeLibrary, block_format: BlockFormat
) -> None:
    matrix, _array, _ = random_matrix(library, block_format, 250, 160)
    x = np.random.default_rng(2).standard_normal((150, 160)).astype(np.float32)
    alone = np.concatenate([linear(library, matrix, x[i : i + 1]) for i in range(len(x))])

    for num_threads in (1, 2, 5):
        for start, end in ((0, 150), (0, 8), (3, 12), (7, 140), (149, 150)):
            result = linear(library, matrix, x[start:end], num_threads)
            np.testing.assert_array_equal(result, alone[start:end])


def test_zeros_and_the_largest_values_survive(library: NativeLibrary) -> None:
    matrix, _array, exact = random_matrix(library, BlockFormat.Q8_0, 16, 64)
    x = np.zeros((3, 64), np.float32)
    x[1] = 1e-38
    x[2] = 1e30

    result = linear(library, matrix, x)

    assert (result[:2] == 0).all()
    np.testing.assert_allclose(result[2], x[2] @ exact.T, rtol=0.02, atol=2e30)


def test_the_exponential_is_exact_to_a_few_units_in_the_last_place(library: NativeLibrary) -> None:
    x = np.concatenate([np.linspace(-87, 0, 16_000), [0, -0.0, -87.5, -200, -np.inf, *range(-11, 0)]]).astype(
        np.float32
    )
    out = np.empty_like(x)

    library.exponential(x, out)

    expected = np.exp(x.astype(np.float64))
    in_range = x >= -87
    assert np.abs(out[in_range] / expected[in_range] - 1).max() < 3e-7
    assert (out[~in_range] == 0).all() and (out[x == 0] == 1).all()


@pytest.mark.parametrize("size", [1, 31, 32, 576, 1000])
def test_rms_norm(library: NativeLibrary, size: int) -> None:
    rng = np.random.default_rng(size)
    x, weight = rng.standard_normal((2, size)).astype(np.float32)
    out = np.empty(len(padded(x)), np.float32)

    library.rms_norm(padded(x), padded(weight), size, 1e-5, out)

    wide = x.astype(np.float64)
    np.testing.assert_allclose(out[:size], wide / np.sqrt((wide**2).mean() + 1e-5) * weight, rtol=2e-6)
    assert (out[size:] == 0).all()


def to_bf16(x: Floats) -> Floats:
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def to_int8(x: Floats) -> Floats:
    """What int8 with one scale for each head leaves."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    return (np.rint(x / scale) * scale).astype(np.float32)


class PagedCache:
    """One layer's cache with one sequence in it, in blocks handed out at random; other slots hold NaN."""

    def __init__(
        self,
        library: NativeLibrary,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        length: int,
        kv_format: KvFormat = KvFormat.INT8,
    ) -> None:
        rng = np.random.default_rng(length)
        num_blocks = -(-length // block_size)
        self.library = library
        self.kv_format = kv_format
        self.shape = CacheShape(kv_format, block_size, num_kv_heads, head_dim)
        self.table = rng.permutation(num_blocks + 3)[:num_blocks].astype(np.int32)
        # NaN as bfloat16 and as float32.
        self.memory = np.full((num_blocks + 3) * library.block_bytes(self.shape), 0xFF, np.uint8)
        self.keys, self.values = rng.standard_normal((2, length, num_kv_heads, head_dim)).astype(np.float32)
        for position in range(length):
            block, slot = int(self.table[position // block_size]), position % block_size
            for head in range(num_kv_heads):
                key, value = self.keys[position, head].copy(), self.values[position, head].copy()
                library.write_key_value(self.shape, self.memory, (block, slot, head), key, value)

    def attend(self, kv_head: int, queries: Floats, num_keys: list[int]) -> Floats:
        out = np.full_like(queries, np.nan)
        counts = np.array(num_keys, np.int32)
        self.library.attend(self.shape, self.memory, self.table, kv_head, queries, counts, out)
        return out

    def expected(self, kv_head: int, queries: Floats, num_keys: list[int]) -> npt.NDArray[np.float64]:
        is_bf16 = self.kv_format is KvFormat.BFLOAT16
        kept = to_bf16 if is_bf16 else to_int8
        keys, values = (kept(x[:, kv_head].copy()).astype(np.float64) for x in (self.keys, self.values))
        rows = []
        # Scores in powers of two, as the kernels have them: bfloat16 rounds the product, not the query.
        powers = (queries * np.float32(np.log2(np.e))).astype(np.float32)
        for query, count in zip((to_bf16(powers) if is_bf16 else powers).astype(np.float64), num_keys, strict=True):
            scores = keys[:count] @ query
            weights = np.exp2(scores - scores.max())
            if is_bf16:
                weights = to_bf16(weights.astype(np.float32)).astype(np.float64)
            rows.append(weights @ values[:count] / weights.sum())
        return np.stack(rows)


both_formats = pytest.mark.parametrize("kv_format", KvFormat, ids=lambda f: f.name)


@both_formats
@pytest.mark.parametrize("length", [1, 16, 37, 300])
@pytest.mark.parametrize(
    ("block_size", "num_kv_heads", "head_dim"), [(16, 3, 64), (16, 1, 16), (5, 2, 24), (48, 2, 128), (3, 1, 6)]
)
def test_attention_is_the_softmax_over_the_keys_before(
    library: NativeLibrary, block_size: int, num_kv_heads: int, head_dim: int, length: int, kv_format: KvFormat
) -> None:
    cache = PagedCache(library, block_size, num_kv_heads, head_dim, length, kv_format)
    rng = np.random.default_rng(5)
    for rows in range(1, 13):
        queries = (rng.standard_normal((rows, head_dim)) / np.sqrt(head_dim)).astype(np.float32)
        num_keys = sorted(rng.integers(1, length + 1, rows).tolist())
        for kv_head in range(num_kv_heads):
            result = cache.attend(kv_head, queries, num_keys)
            error = np.abs(result - cache.expected(kv_head, queries, num_keys))
            if kv_format is KvFormat.BFLOAT16:
                # A weight so near the middle of two bfloat16 that it rounds the other way costs 2^-8 of itself.
                assert np.median(error) < 2e-5 and error.max() < 1e-2
            else:
                # Digits of queries and weights: 2^-15 of the largest each, over at most 300 keys.
                assert np.median(error) < 1e-4 and error.max() < 2e-3


@both_formats
@pytest.mark.parametrize(("block_size", "head_dim"), [(16, 64), (5, 24), (48, 128)])
def test_a_query_has_the_same_bits_beside_any_others(
    library: NativeLibrary, block_size: int, head_dim: int, kv_format: KvFormat
) -> None:
    cache = PagedCache(library, block_size, 2, head_dim, 150, kv_format)
    rng = np.random.default_rng(6)
    queries = rng.standard_normal((12, head_dim)).astype(np.float32)
    num_keys = sorted(rng.integers(1, 151, 12).tolist())
    alone = np.concatenate([cache.attend(1, queries[i : i + 1], num_keys[i : i + 1]) for i in range(12)])

    for start in range(12):
        for end in range(start + 1, 13):
            result = cache.attend(1, queries[start:end].copy(), num_keys[start:end])
            np.testing.assert_array_equal(result, alone[start:end])
