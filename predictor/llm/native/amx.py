"""Whether this process computes linear layers by AMX: where the CPU has it, the system lets us, and the bits are right.

The kernels (amx.h) are held to give the same bits as those for AVX-512, and CI proves it with a model of the tile
instructions. The check here is for what CI cannot see: the silicon, the hypervisor, the compiler of this machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import structlog

from mesh.errors import Internal, Unavailable, Unsupported
from predictor.llm.native.library import Matrix, NativeLibrary, Source, pointer

AMX_CPU_FLAGS = frozenset({"amx_tile", "amx_int8"})

_log = structlog.get_logger(__name__)

# Rows of weights, columns, rows of activations: no whole blocks, groups in fours and a rest, whole and broken spans.
_SHAPES = ((100, 32 * 9, 45), (33, 32 * 4, 5), (16, 32 * 3, 32))
_BLOCK_WEIGHTS = 32
_QUANT_BYTES = {Source.Q4_1: 16, Source.Q8_0: 32}


def use_amx(library: NativeLibrary, flags: frozenset[str]) -> bool:
    """Turns AMX on in `library` if it can be; else the log says why, unless it is only that the CPU has none.

    flags: of the CPU, in the words of /proc/cpuinfo.
    """
    if not flags >= AMX_CPU_FLAGS:
        return False
    try:
        library.request_amx()
        _check(library)
    except (Unsupported, Unavailable, Internal) as error:
        library.enable_amx(False)
        _log.warning("amx_not_used", reason=error.message)
        return False
    return True


def _check(library: NativeLibrary) -> None:
    """Leaves AMX on. Raises Internal when it gives other bits than the kernels that the library uses without it."""
    rng = np.random.default_rng(0)
    for source in _QUANT_BYTES:
        for rows, columns, num_rows in _SHAPES:
            stored = _random_blocks(rng, source, rows * columns // _BLOCK_WEIGHTS)
            packed = np.empty(library.packed_bytes(source.packed_format, rows, columns), np.uint8)
            library.pack(stored, source, rows, columns, packed)
            matrix = Matrix(pointer(packed), source.packed_format, rows, columns)
            x = rng.standard_normal((num_rows, columns)).astype(np.float32)
            results = np.zeros((2, num_rows, rows), np.float32)
            for is_enabled in (0, 1):
                library.enable_amx(bool(is_enabled))
                library.linear(matrix, x, 2, results[is_enabled])
            if results[0].tobytes() != results[1].tobytes():
                raise Internal(f"AMX and AVX-512 give different bits for {source.name}, {rows} x {columns}")


def _random_blocks(rng: np.random.Generator, source: Source, num_blocks: int) -> npt.NDArray[np.uint8]:
    """GGML blocks of random quants and scales, as they lie in a file."""
    num_scales = 2 if source is Source.Q4_1 else 1
    scales = rng.standard_normal((num_blocks, num_scales)).astype(np.float16).view(np.uint8)
    quants = rng.integers(0, 256, (num_blocks, _QUANT_BYTES[source]), np.uint8)
    return np.concatenate([scales, quants], axis=1).reshape(-1)
