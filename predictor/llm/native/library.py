"""The compiled kernels as Python sees them: structures that mirror model.h, and one typed method a function.

ctypes lets go of the interpreter lock for the length of a call. Every pointer is borrowed: whoever fills in a structure
keeps the arrays behind it alive.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_uint64, c_void_p
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.errors import Internal, Unavailable, Unsupported

FloatArray = npt.NDArray[np.float32]

# The phases of a step, in the order of model.h.
PHASES = ("embed", "norm", "qkv", "rotary", "attention", "output", "gate_up", "down", "lm_head")

_NO_MEMORY, _OUT_OF_RANGE = 1, 2
_NOT_COMPILED_IN = -1


class Format(IntEnum):
    """How packed weights are laid out, see gemm.h."""

    Q4 = 0
    Q8 = 1


class KvFormat(IntEnum):
    """How keys and values are kept, see kv_cache.h."""

    BFLOAT16 = 0
    INT8 = 1


class Source(IntEnum):
    """What `pack` reads, see pack.h."""

    Q4_0 = 0
    Q4_1 = 1
    Q8_0 = 2
    F32 = 3

    @property
    def packed_format(self) -> Format:
        return Format.Q4 if self in (Source.Q4_0, Source.Q4_1) else Format.Q8


class Matrix(Structure):
    _fields_ = (("data", c_void_p), ("format", c_int32), ("rows", c_int32), ("columns", c_int32))


class Layer(Structure):
    _fields_ = (
        ("input_norm", c_void_p),
        ("post_norm", c_void_p),
        *((name, Matrix) for name in ("q", "k", "v", "o", "gate", "up", "down")),
        ("q_bias", c_void_p),
        ("k_bias", c_void_p),
        ("v_bias", c_void_p),
    )


class Config(Structure):
    _fields_ = (
        *(
            (name, c_int32)
            for name in (
                "num_layers",
                "hidden_size",
                "intermediate_size",
                "num_heads",
                "num_kv_heads",
                "head_dim",
                "vocab_size",
                "num_threads",
                "kv_format",
            )
        ),
        ("rms_norm_eps", c_float),
        ("rotary_frequencies", c_void_p),
        ("norm", c_void_p),
        ("layers", POINTER(Layer)),
        ("embedding", Matrix),
        ("lm_head", Matrix),
    )


class Step(Structure):
    _fields_ = (
        *(
            (name, c_int32)
            for name in ("num_chunks", "num_tokens_in_all", "block_size", "num_blocks", "num_logit_rows")
        ),
        *(
            (name, c_void_p)
            for name in (
                "token_ids",
                "start_positions",
                "num_tokens",
                "table_offsets",
                "block_tables",
                "logit_rows",
                "cache",
            )
        ),
    )


class CacheShape(Structure):
    """How one layer's KV cache is cut, see attention.h."""

    _fields_ = (("format", c_int32), ("block_size", c_int32), ("num_kv_heads", c_int32), ("head_dim", c_int32))


_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {  # Any: ctypes' types have no common name
    "native_request_amx": (c_int32, []),
    "native_set_min_amx_rows": (None, [c_int32]),
    "native_new": (c_void_p, [POINTER(Config)]),
    "native_free": (None, [c_void_p]),
    "native_team": (c_void_p, [c_void_p]),
    "native_block_bytes": (c_int64, [POINTER(CacheShape)]),
    "native_forward": (c_int32, [c_void_p, POINTER(Step)]),
    "native_logits": (c_int32, [c_void_p, c_void_p, c_int32, c_void_p]),
    "native_seconds": (None, [c_void_p, c_void_p]),
    "native_packed_bytes": (c_int64, [c_int32, c_int32, c_int32]),
    "native_pack": (None, [c_void_p, c_int32, c_int32, c_int32, c_void_p]),
    "native_read_row": (None, [POINTER(Matrix), c_int32, c_void_p]),
    "native_linear": (None, [POINTER(Matrix), c_void_p, c_int32, c_int32, c_void_p]),
    "native_exponential": (None, [c_void_p, c_int32, c_void_p]),
    "native_write_key_value": (
        None,
        [POINTER(CacheShape), c_void_p, c_int32, c_int32, c_int32, c_void_p, c_void_p],
    ),
    "native_attend": (
        None,
        [POINTER(CacheShape), c_void_p, c_void_p, c_int32, c_int32, c_void_p, c_void_p, c_void_p],
    ),
    "native_rms_norm": (None, [c_void_p, c_void_p, c_int32, c_float, c_void_p]),
    "native_new_team": (c_void_p, [c_int32]),
    "native_free_team": (None, [c_void_p]),
    "native_sample": (c_int32, [c_void_p, c_void_p, c_int32, c_int32, c_int64, c_void_p, c_void_p]),
    "native_logprobs": (
        c_int32,
        [c_void_p, c_void_p, c_int32, c_int32, c_int64, c_void_p, c_void_p, c_int32, c_void_p, c_void_p, c_void_p],
    ),
    "native_gumbel": (None, [c_uint64, c_int64, c_int32, c_void_p]),
    "native_weights": (None, [c_void_p, c_int32, c_void_p]),
}


def pointer(array: npt.NDArray[Any]) -> int:  # Any: of whatever dtype
    """The address of a contiguous array's data."""
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def address(values: array[int] | array[float]) -> int:
    """Of the data of an array, until it grows."""
    return values.buffer_info()[0]


class NativeLibrary:
    """Raises Unsupported for a file that cannot be loaded."""

    def __init__(self, path: Path) -> None:
        try:
            self._functions = ctypes.CDLL(str(path))
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(self._functions, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise Unsupported(f"the compiled kernels cannot be loaded: {error}") from error

    def request_amx(self) -> None:
        """Gets the right to use AMX, for this process. To be called only on a CPU that has it.

        Raises Unsupported when the library has no kernels for it, Unavailable when the kernel or a sandbox refuses.
        """
        status = self._functions.native_request_amx()
        if status == _NOT_COMPILED_IN:
            raise Unsupported("the library has no kernels for AMX")
        if status:
            raise Unavailable(f"the system does not let this process use AMX: {os.strerror(status)}")

    def set_min_amx_rows(self, rows: int) -> None:
        """From how many rows on linear layers use AMX; 0: never. Needs `request_amx` first."""
        self._functions.native_set_min_amx_rows(rows)

    def new_model(self, config: Config) -> int:
        """A handle for the calls below, to be given to `free_model` once."""
        handle = self._functions.native_new(byref(config))
        if not handle:
            raise MemoryError("the native model cannot be made")
        return int(handle)

    def free_model(self, handle: int) -> None:
        self._functions.native_free(handle)

    def team(self, handle: int) -> int:
        """The threads of a model, for `sample` and `logprobs`; they end with it."""
        return int(self._functions.native_team(handle))

    def block_bytes(self, shape: CacheShape) -> int:
        """Bytes of one KV block in one layer."""
        return int(self._functions.native_block_bytes(byref(shape)))

    def forward(self, handle: int, step: Step) -> None:
        _check(self._functions.native_forward(handle, byref(step)))

    def logits(self, handle: int, rows: array[int], out: FloatArray) -> None:
        """Logits of `rows`, each one of the last logit_rows; `out` has vocab_size a row, and at least as many rows."""
        _check(self._functions.native_logits(handle, address(rows), len(rows), pointer(out)))

    def seconds(self, handle: int) -> dict[str, float]:
        """Time spent in each phase since the model was made."""
        out = np.zeros(len(PHASES))
        self._functions.native_seconds(handle, pointer(out))
        return dict(zip(PHASES, out.tolist(), strict=True))

    def packed_bytes(self, packed_format: Format, rows: int, columns: int) -> int:
        return int(self._functions.native_packed_bytes(packed_format, rows, columns))

    def pack(self, stored: npt.NDArray[Any], source: Source, rows: int, columns: int, out: npt.NDArray[Any]) -> None:
        """`stored`: the bytes of [rows, columns] in the order of a file; `out`: `packed_bytes` of them."""
        self._functions.native_pack(pointer(stored), source, rows, columns, pointer(out))

    def read_row(self, matrix: Matrix, row: int, out: FloatArray) -> None:
        """`out`: the columns, padded to a multiple of 32."""
        self._functions.native_read_row(byref(matrix), row, pointer(out))

    def linear(self, matrix: Matrix, x: FloatArray, num_threads: int, out: FloatArray) -> None:
        """out [n, rows] = x [n, columns padded to a multiple of 32] times the matrix."""
        self._functions.native_linear(byref(matrix), pointer(x), len(x), num_threads, pointer(out))

    def exponential(self, x: FloatArray, out: FloatArray) -> None:
        """Of a multiple of sixteen values."""
        self._functions.native_exponential(pointer(x), len(x), pointer(out))

    def rms_norm(self, x: FloatArray, weight: FloatArray, size: int, eps: float, out: FloatArray) -> None:
        """Arrays padded with zeros to a multiple of 32."""
        self._functions.native_rms_norm(pointer(x), pointer(weight), size, eps, pointer(out))

    def write_key_value(
        self,
        shape: CacheShape,
        layer: npt.NDArray[np.uint8],
        place: tuple[int, int, int],  # block, slot, KV head
        key: FloatArray,
        value: FloatArray,
    ) -> None:
        self._functions.native_write_key_value(byref(shape), pointer(layer), *place, pointer(key), pointer(value))

    def attend(
        self,
        shape: CacheShape,
        layer: npt.NDArray[np.uint8],
        block_table: npt.NDArray[np.int32],
        kv_head: int,
        queries: FloatArray,
        num_keys: npt.NDArray[np.int32],
        out: FloatArray,
    ) -> None:
        """At most twelve queries [rows, head_dim], scaled already; num_keys of each must not fall."""
        self._functions.native_attend(
            byref(shape),
            pointer(layer),
            pointer(block_table),
            kv_head,
            len(queries),
            pointer(queries),
            pointer(num_keys),
            pointer(out),
        )

    def new_team(self, num_threads: int) -> int:
        """A handle of threads of their own, to be given to `free_team` once."""
        team = self._functions.native_new_team(num_threads)
        if not team:
            raise MemoryError("the native threads cannot be made")
        return int(team)

    def free_team(self, team: int) -> None:
        self._functions.native_free_team(team)

    def sample(self, team: int, logits: FloatArray, row_draws: bytes, token_ids: array[int]) -> None:
        """`row_draws`: one RowDraw (sampling.h) a row [rows, vocab_size]; a token id for each goes to `token_ids`."""
        _check(self._functions.native_sample(team, *_rows_of(logits), row_draws, address(token_ids)))

    def logprobs(
        self,
        team: int,
        logits: FloatArray,
        targets: array[int],
        num_top: array[int],
        chosen: FloatArray,
        top_ids: npt.NDArray[np.int32],
        top: FloatArray,
    ) -> None:
        """Log-probabilities of each row's target, and of its num_top likeliest; -1 passes over a row.

        top_ids, top: [rows, largest num_top].
        """
        _check(
            self._functions.native_logprobs(
                team,
                *_rows_of(logits),
                address(targets),
                address(num_top),
                top.shape[1],
                pointer(chosen),
                pointer(top_ids),
                pointer(top),
            )
        )

    def gumbel(self, seed: int, position: int, out: npt.NDArray[np.float64]) -> None:
        """The noise of token 0, 1, …"""
        self._functions.native_gumbel(seed, position, len(out), pointer(out))

    def weights(self, x: FloatArray, out: FloatArray) -> None:
        """e^x as multiples of 2^-34, of a multiple of sixteen values."""
        self._functions.native_weights(pointer(x), len(x), pointer(out))


def _rows_of(logits: FloatArray) -> tuple[int, int, int, int]:
    """Address, rows, length of a row, and numbers from row to row."""
    assert logits[:1].flags.c_contiguous
    return int(logits.ctypes.data), *logits.shape, logits.strides[0] // logits.itemsize


def _check(status: int) -> None:
    if status == _NO_MEMORY:
        raise MemoryError("the native kernels found no memory for a step")
    if status == _OUT_OF_RANGE:
        raise Internal("a step names a token, a position or a block that does not exist")
