"""Reads GGUF version 3: typed metadata and an index of tensors over a memory map.

Every count, length and offset is compared with the size of the file before anything is allocated or looped
over, so a hostile or truncated file costs one `CorruptArtifact` and no memory. Knows nothing of models, and
leaves the blocks of quantized tensors as they are: `dequantize` reads those. Layout: ggml's docs/gguf.md.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from mesh.errors import CorruptArtifact, Unsupported
from predictor.llm.weights.mapped_file import map_file

MAX_NAME_BYTES = 65_535
MAX_ARRAY_DEPTH = 4
MAX_DIMENSIONS = 4
MAX_TENSORS = 1 << 20
MAX_KEYS = 1 << 16

Scalar = bool | int | float | str
Array = tuple[Scalar, ...] | tuple["Array", ...]
MetadataValue = Scalar | Array


class BlockFormat(Enum):
    """How weights are stored: (GGML type id, weights per block, bytes per block)."""

    F32 = (0, 1, 4)
    F16 = (1, 1, 2)
    Q4_0 = (2, 32, 18)
    Q4_1 = (3, 32, 20)
    Q5_0 = (6, 32, 22)
    Q8_0 = (8, 32, 34)
    Q4_K = (12, 256, 144)
    Q6_K = (14, 256, 210)
    BF16 = (30, 1, 2)

    @property
    def type_id(self) -> int:
        return self.value[0]

    @property
    def block_weights(self) -> int:
        return self.value[1]

    @property
    def block_bytes(self) -> int:
        return self.value[2]


_FORMATS = {block_format.type_id: block_format for block_format in BlockFormat}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: `shape` is row-major as in torch (the file has it reversed), `offset` absolute."""

    name: str
    shape: tuple[int, ...]
    block_format: BlockFormat
    offset: int
    size_bytes: int


class GgufFile:
    """An open GGUF file: `metadata` by key, `tensors` by name, raw blocks on demand.

    Opening reads metadata and index only. Close it, or use it as a context manager, when the weights are
    loaded; arrays from `blocks` must be gone by then.
    """

    def __init__(self, path: Path) -> None:
        """Raises NotFound, CorruptArtifact, or Unsupported for a version or tensor type not read here."""
        self.name = path.name
        self._map = map_file(path)
        try:
            cursor = _Cursor(self._map, self.name)
            num_tensors, num_keys = _read_header(cursor)
            self.metadata = _read_metadata(cursor, num_keys)
            self.tensors = _read_index(cursor, num_tensors, self._alignment())
        except BaseException:
            self.close()
            raise

    def blocks(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, a read-only view of the map: [size_bytes], uint8. KeyError when unknown."""
        info = self.tensors[name]
        return np.frombuffer(self._map, dtype=np.uint8, count=info.size_bytes, offset=info.offset)

    def integer(self, key: str, default: int | None = None) -> int:
        """The value at `key`; CorruptArtifact when absent without a default, or no integer. So all below."""
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(key, value, "a finite number")
        return float(value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self.metadata.get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "a boolean")
        return value

    def string(self, key: str, default: str | None = None) -> str:
        value = self.metadata.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        value = self.metadata.get(key)
        if not isinstance(value, tuple) or (value and not isinstance(value[0], str)):
            raise self._wrong(key, value, "an array of strings")
        return value  # type: ignore[return-value]  # arrays are homogeneous: the reader makes them so

    def integers(self, key: str) -> tuple[int, ...]:
        value = self.metadata.get(key)
        if not isinstance(value, tuple) or (value and type(value[0]) is not int):
            raise self._wrong(key, value, "an array of integers")
        return value  # type: ignore[return-value]  # as above

    def numbers(self, key: str) -> tuple[float, ...]:
        """An array of floats; they need not be finite."""
        value = self.metadata.get(key)
        if not isinstance(value, tuple) or (value and type(value[0]) is not float):
            raise self._wrong(key, value, "an array of floats")
        return value  # type: ignore[return-value]  # as above

    def _wrong(self, key: str, value: MetadataValue | None, expected: str) -> CorruptArtifact:
        found = "missing" if value is None else f"of type {type(value).__name__}"
        return CorruptArtifact(f"{self.name}: metadata key {key!r} is {found}; it must be {expected}", field=key)

    def _alignment(self) -> int:
        alignment = self.integer("general.alignment", 32)
        if not 1 <= alignment <= 1 << 16 or alignment & (alignment - 1):
            raise CorruptArtifact(
                f"{self.name}: general.alignment is {alignment}; it must be a power of two up to 65536"
            )
        return alignment

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Cursor:
    """A read position in the map that never passes its end."""

    def __init__(self, data: mmap.mmap, file_name: str) -> None:
        self.data = data
        self.size = len(data)
        self.position = 0
        self.file_name = file_name

    def corrupt(self, what: str) -> CorruptArtifact:
        return CorruptArtifact(f"{self.file_name}: {what}")

    def advance(self, num_bytes: int, what: str) -> int:
        """Step over `num_bytes`; returns where they start. CorruptArtifact when the file ends before them."""
        start = self.position
        if num_bytes > self.size - start:
            raise self.corrupt(f"{what} at byte {start} takes {num_bytes} bytes, but the file ends at {self.size}")
        self.position = start + num_bytes
        return start

    def scalar(self, layout: struct.Struct, what: str) -> int:
        start = self.advance(layout.size, what)
        value: int = layout.unpack_from(self.data, start)[0]
        return value

    def count(self, what: str, element_bytes: int, limit: int) -> int:
        """A u64 that counts elements of at least `element_bytes` each; the file must still hold them all."""
        count = self.scalar(_U64, what)
        most = min(limit, (self.size - self.position) // element_bytes)
        if count > most:
            raise self.corrupt(f"{what} is {count}; at most {most} can be in the rest of the file")
        return count

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.count(f"length of {what}", 1, limit or self.size)
        start = self.advance(length, what)
        try:
            return self.data[start : self.position].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.corrupt(f"{what} at byte {start} is not UTF-8") from error


_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")

_STRING, _ARRAY, _BOOL = 8, 9, 7
# GGUF value type id → little-endian numpy dtype, for all types of fixed size.
_NUMBERS: dict[int, np.dtype[np.generic]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("u1"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}


def _read_header(cursor: _Cursor) -> tuple[int, int]:
    """Returns (number of tensors, number of metadata keys)."""
    start = cursor.advance(4, "magic")
    if cursor.data[start : cursor.position] != b"GGUF":
        raise cursor.corrupt("not a GGUF file: it does not start with 'GGUF'")
    version = cursor.scalar(_U32, "version")
    if version != 3:
        raise Unsupported(f"{cursor.file_name}: GGUF version {version} is not supported; only version 3 is")
    # A tensor entry takes at least 24 bytes, a key at least 13.
    return cursor.count("number of tensors", 24, MAX_TENSORS), cursor.count("number of keys", 13, MAX_KEYS)


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, MetadataValue]:
    metadata: dict[str, MetadataValue] = {}
    for _ in range(num_keys):
        key = cursor.string("metadata key", MAX_NAME_BYTES)
        if key in metadata:
            raise cursor.corrupt(f"metadata key {key!r} appears twice")
        metadata[key] = _read_value(cursor, cursor.scalar(_U32, f"type of {key!r}"), key, depth=0)
    return metadata


def _read_value(cursor: _Cursor, type_id: int, key: str, depth: int) -> MetadataValue:
    if type_id == _STRING:
        return cursor.string(f"string {key!r}")
    if type_id == _ARRAY:
        return _read_array(cursor, key, depth + 1)
    return _read_numbers(cursor, type_id, 1, key)[0]


def _read_array(cursor: _Cursor, key: str, depth: int) -> Array:
    if depth > MAX_ARRAY_DEPTH:
        raise cursor.corrupt(f"metadata {key!r} nests arrays deeper than {MAX_ARRAY_DEPTH}")
    type_id = cursor.scalar(_U32, f"element type of {key!r}")
    # An inner array takes at least its type and count, a string at least its length.
    least_bytes = {_STRING: 8, _ARRAY: 12}.get(type_id, 1)
    count = cursor.count(f"length of {key!r}", least_bytes, cursor.size)
    if type_id == _STRING:
        return _read_strings(cursor, count, key)
    if type_id == _ARRAY:
        return tuple(_read_array(cursor, key, depth + 1) for _ in range(count))
    return _read_numbers(cursor, type_id, count, key)


def _read_numbers(cursor: _Cursor, type_id: int, count: int, key: str) -> tuple[bool | int | float, ...]:
    dtype = _NUMBERS.get(type_id)
    if dtype is None:
        raise cursor.corrupt(f"metadata {key!r} has unknown type {type_id}")
    start = cursor.advance(count * dtype.itemsize, f"value of {key!r}")
    values = np.frombuffer(cursor.data, dtype=dtype, count=count, offset=start)
    return tuple((values != 0).tolist() if type_id == _BOOL else values.tolist())


def _read_strings(cursor: _Cursor, count: int, key: str) -> tuple[str, ...]:
    # A vocabulary has 10^5 strings: this loop is the cost of opening a file, so it works on locals.
    data, size, position = cursor.data, cursor.size, cursor.position
    unpack_length = _U64.unpack_from
    strings = []
    try:
        for _ in range(count):
            start = position + 8
            position = start + unpack_length(data, position)[0]
            if position > size:
                raise cursor.corrupt(f"a string of {key!r} ends at byte {position}, but the file at {size}")
            strings.append(data[start:position].decode("utf-8"))
    except struct.error as error:
        raise cursor.corrupt(f"the file ends inside array {key!r}") from error
    except UnicodeDecodeError as error:
        raise cursor.corrupt(f"a string of {key!r} is not UTF-8") from error
    cursor.position = position
    return tuple(strings)


def _read_index(cursor: _Cursor, num_tensors: int, alignment: int) -> dict[str, TensorInfo]:
    entries = [_read_entry(cursor) for _ in range(num_tensors)]
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    end_of_previous = 0
    for name, shape, block_format, offset in sorted(entries, key=lambda entry: entry[3]):
        size_bytes = _stored_bytes(cursor, name, shape, block_format)
        if name in tensors:
            raise cursor.corrupt(f"tensor {name!r} appears twice")
        if offset % alignment or offset < end_of_previous:
            raise cursor.corrupt(f"tensor {name!r} is misaligned or overlaps another at offset {offset}")
        end_of_previous = offset + size_bytes
        if data_start + end_of_previous > cursor.size:
            raise cursor.corrupt(
                f"tensor {name!r} ends at byte {data_start + end_of_previous}, but the file at {cursor.size}"
            )
        tensors[name] = TensorInfo(name, shape, block_format, data_start + offset, size_bytes)
    return tensors


def _read_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], BlockFormat, int]:
    name = cursor.string("tensor name", MAX_NAME_BYTES)
    num_dimensions = cursor.scalar(_U32, f"rank of {name!r}")
    if num_dimensions > MAX_DIMENSIONS:
        raise cursor.corrupt(f"tensor {name!r} has {num_dimensions} dimensions; at most {MAX_DIMENSIONS} are allowed")
    shape = tuple(cursor.scalar(_U64, f"shape of {name!r}") for _ in range(num_dimensions))[::-1]
    type_id = cursor.scalar(_U32, f"type of {name!r}")
    if type_id not in _FORMATS:
        known = ", ".join(block_format.name for block_format in BlockFormat)
        raise Unsupported(f"{cursor.file_name}: tensor {name!r} has GGML type {type_id}; supported are {known}")
    return name, shape, _FORMATS[type_id], cursor.scalar(_U64, f"offset of {name!r}")


def _stored_bytes(cursor: _Cursor, name: str, shape: tuple[int, ...], block_format: BlockFormat) -> int:
    row = shape[-1] if shape else 1
    if row % block_format.block_weights:
        raise cursor.corrupt(
            f"tensor {name!r} has rows of {row} weights, no multiple of the {block_format.block_weights} "
            f"of a {block_format.name} block"
        )
    return math.prod(shape) // block_format.block_weights * block_format.block_bytes
