"""Whether this process computes linear layers by AMX: where the CPU has it, the system lets us, the bits are right, and
it is faster.

The kernels (amx.h) are held to give the same bits as those for AVX-512, and CI proves it with a model of the tile
instructions. The check here is for what CI cannot see: the silicon, the hypervisor, the compiler of this machine. Since
the bits are the same, who computes may follow from a short measurement: no token depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import structlog

from mesh.errors import Internal, Unavailable, Unsupported
from predictor.llm.native.library import Matrix, NativeLibrary, Source, pointer

AMX_CPU_FLAGS = frozenset({"amx_tile", "amx_int8"})

# Rows of activations from which on AMX may compute. Below the first the memory decides, whoever multiplies; the last is
# as many as it computes at once (SPAN_ROWS in amx.h).
CANDIDATE_ROWS = (5, 8, 16, 32)

# Seconds that a linear layer of so many rows takes without AMX and with it.
Measure = Callable[[NativeLibrary, int], tuple[float, float]]

_log = structlog.get_logger(__name__)

# Rows of weights, columns, rows of activations: no whole blocks, groups in fours and a rest, whole and broken spans.
_SHAPES = ((100, 32 * 9, 45), (33, 32 * 4, 5), (16, 32 * 3, 32))
_BLOCK_WEIGHTS = 32
_QUANT_BYTES = {Source.Q4_1: 16, Source.Q8_0: 32}
# A matrix that stays in the second-level cache, as the next of a layer does by prefetching.
_MEASURED_SHAPE = (512, 576)
_NUM_MEASUREMENTS = 7
# What AMX must take at most of the other's time: less is noise, and a CPU's clock may fall for it.
_LARGEST_SHARE = 0.95


def use_amx(library: NativeLibrary, flags: frozenset[str], measure: Measure | None = None) -> int:
    """Turns AMX on in `library` if it can be and pays; else the log says why, unless it is only that the CPU has none.

    Returns the rows from which on it computes, 0 where it does not. flags: of the CPU, in the words of /proc/cpuinfo.
    """
    if not flags >= AMX_CPU_FLAGS:
        return 0
    try:
        library.request_amx()
        _check(library)
        min_rows = _fewest_rows(library, measure or measure_linear)
    except (Unsupported, Unavailable, Internal) as error:
        library.set_min_amx_rows(0)
        _log.warning("amx_not_used", reason=error.message)
        return 0
    library.set_min_amx_rows(min_rows)
    return min_rows


def measure_linear(library: NativeLibrary, num_rows: int) -> tuple[float, float]:
    """Seconds of a 4-bit layer on one thread without AMX and with it, in turn; the shortest of a few each."""
    rng = np.random.default_rng(0)
    matrix, _packed = _random_matrix(library, rng, Source.Q4_1, *_MEASURED_SHAPE)
    x = rng.standard_normal((num_rows, matrix.columns)).astype(np.float32)
    out = np.zeros((num_rows, matrix.rows), np.float32)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_NUM_MEASUREMENTS):
        for min_amx_rows, taken in enumerate(seconds):
            library.set_min_amx_rows(min_amx_rows)
            started = time.perf_counter()
            library.linear(matrix, x, 1, out)
            taken.append(time.perf_counter() - started)
    return min(seconds[0]), min(seconds[1])


def _fewest_rows(library: NativeLibrary, measure: Measure) -> int:
    """The fewest rows from which on AMX is faster, at all candidates from there on. Raises Unavailable for none."""
    fewest = 0
    shares: dict[int, float] = {}
    for rows in reversed(CANDIDATE_ROWS):
        without, with_amx = measure(library, rows)
        shares[rows] = round(with_amx / without, 2)
        if shares[rows] > _LARGEST_SHARE:
            break
        fewest = rows
    if not fewest:
        raise Unavailable(
            f"it is not faster here: {shares[CANDIDATE_ROWS[-1]]} of the time of AVX-512 at {CANDIDATE_ROWS[-1]} rows"
        )
    _log.info("amx_measured", min_rows=fewest, time_share_by_rows=shares)
    return fewest


def _check(library: NativeLibrary) -> None:
    """Raises Internal when AMX gives other bits than the kernels that the library uses without it."""
    rng = np.random.default_rng(0)
    for source in _QUANT_BYTES:
        for rows, columns, num_rows in _SHAPES:
            matrix, _packed = _random_matrix(library, rng, source, rows, columns)
            x = rng.standard_normal((num_rows, columns)).astype(np.float32)
            results = np.zeros((2, num_rows, rows), np.float32)
            for min_amx_rows in (0, 1):
                library.set_min_amx_rows(min_amx_rows)
                library.linear(matrix, x, 2, results[min_amx_rows])
            if results[0].tobytes() != results[1].tobytes():
                raise Internal(f"AMX and AVX-512 give different bits for {source.name}, {rows} x {columns}")


def _random_matrix(
    library: NativeLibrary, rng: np.random.Generator, source: Source, rows: int, columns: int
) -> tuple[Matrix, npt.NDArray[np.uint8]]:
    """The matrix, and the packed weights that it borrows: keep them."""
    stored = _random_blocks(rng, source, rows * columns // _BLOCK_WEIGHTS)
    packed = np.empty(library.packed_bytes(source.packed_format, rows, columns), np.uint8)
    library.pack(stored, source, rows, columns, packed)
    return Matrix(pointer(packed), source.packed_format, rows, columns), packed


def _random_blocks(rng: np.random.Generator, source: Source, num_blocks: int) -> npt.NDArray[np.uint8]:
    """GGML blocks of random quants and scales, as they lie in a file."""
    num_scales = 2 if source is Source.Q4_1 else 1
    scales = rng.standard_normal((num_blocks, num_scales)).astype(np.float16).view(np.uint8)
    quants = rng.integers(0, 256, (num_blocks, _QUANT_BYTES[source]), np.uint8)
    return np.concatenate([scales, quants], axis=1).reshape(-1)
