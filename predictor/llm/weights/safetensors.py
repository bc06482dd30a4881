"""Reads one safetensors file: an index of tensors over a memory map.

The header's length, every shape and every byte range are compared with the size of the file before anything is
allocated, so a hostile or truncated file costs one `CorruptArtifact`. Knows nothing of models or of other shards.
Layout: u64 header length, JSON header, tensors row-major and little-endian, side by side without a gap
(huggingface/safetensors, README "Format").
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from mesh.errors import CorruptArtifact, Unsupported
from mesh.names import shown
from predictor.llm.weights.json_object import JsonObject, Value
from predictor.llm.weights.mapped_file import map_file

# 60,000 tensors or so; files in the wild have hundreds.
MAX_HEADER_BYTES = 8 << 20
MAX_DIMENSIONS = 8

# The format's name of an element type → bytes of one element. Types of less than a byte are not here.
_ELEMENT_BYTES = {
    name: num_bytes
    for num_bytes, names in {
        1: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"),
        2: ("U16", "I16", "F16", "BF16"),
        4: ("U32", "I32", "F32"),
        8: ("U64", "I64", "F64", "C64"),
    }.items()
    for name in names
}
_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies: `dtype` in the format's words, `offset` from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int


class SafetensorsFile:
    """An open safetensors file: `tensors` by name, raw bytes on demand.

    Opening reads the header only. Close it, or use it as a context manager; arrays from `data` must be gone by then.
    """

    def __init__(self, path: Path) -> None:
        """Raises NotFound, CorruptArtifact, or Unsupported for an element type that is not known."""
        self.name = path.name
        self._map = map_file(path)
        try:
            self.tensors = self._read_index()
        except BaseException:
            self.close()
            raise

    def data(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of a tensor, a read-only view of the map: [size_bytes], uint8. KeyError when unknown."""
        info = self.tensors[name]
        return np.frombuffer(self._map, dtype=np.uint8, count=info.size_bytes, offset=info.offset)

    def close(self) -> None:
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read_index(self) -> dict[str, StoredTensor]:
        header, data_start = self._read_header()
        entries = [self._read_entry(name, header, data_start) for name in header.values if name != "__metadata__"]
        end = data_start
        for info in sorted(entries, key=lambda info: (info.offset, info.size_bytes)):
            if info.offset != end:
                raise self._corrupt(
                    f"tensor {shown(info.name)} starts at byte {info.offset}, but the tensor before it ends at {end}"
                )
            end += info.size_bytes
        if end != len(self._map):
            raise self._corrupt(f"the tensors end at byte {end}, but the file at {len(self._map)}")
        return {info.name: info for info in entries}

    def _read_header(self) -> tuple[JsonObject, int]:
        """Returns the header and the byte at which the tensors start."""
        size = len(self._map)
        if size < _LENGTH.size:
            raise self._corrupt(f"the file has {size} bytes; the length of its header alone takes {_LENGTH.size}")
        (length,) = _LENGTH.unpack_from(self._map)
        most = min(MAX_HEADER_BYTES, size - _LENGTH.size)
        if length > most:
            raise self._corrupt(f"the header's length is {length}; at most {most} bytes are possible here")
        data_start = _LENGTH.size + length
        return JsonObject.parse(self._map[_LENGTH.size : data_start], self.name), data_start

    def _read_entry(self, name: str, header: JsonObject, data_start: int) -> StoredTensor:
        entry = header.child(name)
        dtype = entry.string("dtype")
        if dtype not in _ELEMENT_BYTES:
            known = ", ".join(_ELEMENT_BYTES)
            raise Unsupported(f"{self.name}: tensor {shown(name)} has element type {shown(dtype)}; known are {known}")
        shape = self._sizes(name, "shape", entry.array("shape"))
        offsets = self._sizes(name, "data_offsets", entry.array("data_offsets"))
        if len(shape) > MAX_DIMENSIONS:
            raise self._corrupt(
                f"tensor {shown(name)} has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are allowed"
            )
        if len(offsets) != 2 or not offsets[0] <= offsets[1] <= len(self._map) - data_start:
            raise self._corrupt(
                f"tensor {shown(name)} has data_offsets {list(offsets[:3])}; they must be a start and an end within "
                f"the {len(self._map) - data_start} bytes of data"
            )
        size_bytes = offsets[1] - offsets[0]
        needed = math.prod(shape) * _ELEMENT_BYTES[dtype]
        if needed != size_bytes:
            raise self._corrupt(
                f"tensor {shown(name)} has shape {list(shape)} of {dtype}, which takes {needed} bytes, not "
                f"the {size_bytes} of its data_offsets"
            )
        return StoredTensor(name, dtype, shape, data_start + offsets[0], size_bytes)

    def _sizes(self, name: str, key: str, values: list[Value]) -> tuple[int, ...]:
        sizes = tuple(value for value in values if type(value) is int and 0 <= value < 1 << 63)
        if len(sizes) != len(values):
            raise self._corrupt(f"tensor {shown(name)}: every number in {key!r} must be an integer from 0 to 2^63 - 1")
        return sizes

    def _corrupt(self, what: str) -> CorruptArtifact:
        return CorruptArtifact(f"{self.name}: {what}")
