"""Named arrays and a few words over a socket: a prefix, a JSON header, and the arrays' own bytes. No pickle.

Both ends use this module: the predictor, and the process in which a user's class runs. It imports numpy and nothing of
the mesh. Arrays are sent from where they lie and read in place, so that a large tensor is copied by the kernel alone.
The layout of BYTES is that of the Open Inference Protocol's raw contents.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.runtimes.dtypes import DTYPES

# Elements of any datatype of the protocol; the datatype's name says which.
Array = NDArray[Any]

# Bytes of the header, bytes of the body.
PREFIX = struct.Struct("<IQ")
MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 1 << 31

# Arrays begin at multiples of this in the body: a cache line, which is enough for every vector unit.
_ALIGNMENT = 64
# Frames up to this size are sent in one piece: a copy costs less than another system call.
_JOINED_BYTES = 1 << 16
_LENGTH = struct.Struct("<I")


class FrameError(ValueError):
    """What the peer sent is no frame, or what is to be sent does not fit one. The message says why."""


@dataclass(frozen=True, slots=True, eq=False)
class NamedArray:
    """An array with its tensor's name and datatype."""

    name: str
    datatype: str
    array: Array


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One message. The arrays are views of the buffer that was received, and may be written."""

    message: Mapping[str, Any]  # what JSON can say
    arrays: Mapping[str, Array]


def encode(message: Mapping[str, Any], arrays: Iterable[NamedArray] = ()) -> list[bytes | memoryview]:
    """The buffers to send, in order; arrays may not change until that is done. Raises FrameError for too much."""
    entries: list[tuple[str, str, list[int], int, int]] = []
    body: list[bytes | memoryview] = []
    offset = 0
    for named in arrays:
        content = _bytes_of(named)
        padding = -offset % _ALIGNMENT
        entries.append((named.name, named.datatype, list(named.array.shape), offset + padding, len(content)))
        body += [bytes(padding), content]
        offset += padding + len(content)
    header = json.dumps({**message, "arrays": entries}).encode()
    _check_sizes(len(header), offset)
    buffers = [PREFIX.pack(len(header), offset) + header, *(content for content in body if len(content))]
    return [b"".join(buffers)] if offset <= _JOINED_BYTES else buffers


def sizes(prefix: bytes | bytearray | memoryview) -> tuple[int, int]:
    """Bytes of the header and of the body that follow. Raises FrameError before anybody allocates too much."""
    header_bytes, body_bytes = PREFIX.unpack(prefix)
    _check_sizes(header_bytes, body_bytes)
    return header_bytes, body_bytes


def decode(header: bytes | bytearray | memoryview, body: NDArray[np.uint8]) -> Frame:
    """The frame of a header and its body [body_bytes]. Raises FrameError for one that does not fit the other."""
    try:
        message = json.loads(bytes(header))
        entries = message.pop("arrays")
        arrays = {name: _array(datatype, shape, _part(body, at, size)) for name, datatype, shape, at, size in entries}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise FrameError(f"a malformed frame ({type(error).__name__})") from error
    return Frame(message, arrays)


def _check_sizes(header_bytes: int, body_bytes: int) -> None:
    if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise FrameError(
            f"a message of {header_bytes} + {body_bytes} bytes; at most {MAX_HEADER_BYTES} + {MAX_BODY_BYTES}"
        )


def _bytes_of(named: NamedArray) -> bytes | memoryview:
    if named.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(element)) + element for element in named.array.flat)
    flat = np.ascontiguousarray(named.array, DTYPES[named.datatype]).reshape(-1)
    return flat.view(np.uint8).data


def _part(body: NDArray[np.uint8], at: int, size: int) -> NDArray[np.uint8]:
    if at < 0 or size < 0 or at + size > body.size:
        raise FrameError(f"{size} bytes at {at} of a body of {body.size}")
    return body[at : at + size]


def _array(datatype: str, shape: list[int], content: NDArray[np.uint8]) -> Array:
    dtype = DTYPES[datatype]
    count = math.prod(shape)
    if datatype == "BYTES":
        return _bytes_array(content.tobytes(), count).reshape(shape)
    if content.size != count * dtype.itemsize:
        raise FrameError(f"{content.size} bytes for {count} elements of {datatype}")
    return content.view(dtype).reshape(shape)


def _bytes_array(content: bytes, count: int) -> Array:
    if len(content) < count * _LENGTH.size:
        raise FrameError(f"{len(content)} bytes are too few for {count} elements of BYTES")
    array = np.empty(count, dtype=object)
    offset = 0
    for index in range(count):
        start = offset + _LENGTH.size
        (length,) = _LENGTH.unpack_from(content, offset)
        offset = start + length
        if offset > len(content):
            raise FrameError(f"element {index} of BYTES ends past the buffer")
        array[index] = content[start:offset]
    if offset != len(content):
        raise FrameError(f"{len(content) - offset} bytes are left after {count} elements of BYTES")
    return array
