"""OIP tensors to ndarrays and back: datatypes, shapes, sizes, typed and raw contents.

Sizes are checked before anything is allocated, and numeric raw contents are read in place: the array is a read-only
view of the message. No number is touched by itself in Python where its encoding allows. What a model wants of its
tensors (names, ranks, dimensions) is not known here. The rules are those of the Open Inference Protocol's "tensor data"
and of Triton's binary encoding of BYTES.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip

# Elements of any datatype of the protocol; the datatype's name says which.
Array = NDArray[Any]

ContentsField = Literal[
    "bool_contents",
    "int_contents",
    "int64_contents",
    "uint_contents",
    "uint64_contents",
    "fp32_contents",
    "fp64_contents",
    "bytes_contents",
]

# Raw contents that came: bytes, or a view of some.
RawContents = bytes | memoryview
# Raw contents that go: bytes, or a C-contiguous array whose memory is them.
Buffer = bytes | Array

MAX_RANK = 32
MAX_BYTES = 2**63 - 1
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype of the protocol.

    dtype: of the array. BYTES elements are `bytes` objects; BF16, which numpy lacks, is widened to float32.
    size_bytes: of one element on the wire; for BYTES of its length prefix, the least that an element takes.
    contents_field: the typed field that carries it; None for what travels only raw.
    """

    name: str
    dtype: np.dtype[Any]
    size_bytes: int
    contents_field: ContentsField | None


def _datatype(name: str, code: str, size_bytes: int, contents_field: ContentsField | None) -> Datatype:
    return Datatype(name, np.dtype(code), size_bytes, contents_field)


DATATYPES: Mapping[str, Datatype] = {
    datatype.name: datatype
    for datatype in (
        _datatype("BOOL", "?", 1, "bool_contents"),
        _datatype("UINT8", "<u1", 1, "uint_contents"),
        _datatype("UINT16", "<u2", 2, "uint_contents"),
        _datatype("UINT32", "<u4", 4, "uint_contents"),
        _datatype("UINT64", "<u8", 8, "uint64_contents"),
        _datatype("INT8", "<i1", 1, "int_contents"),
        _datatype("INT16", "<i2", 2, "int_contents"),
        _datatype("INT32", "<i4", 4, "int_contents"),
        _datatype("INT64", "<i8", 8, "int64_contents"),
        _datatype("FP16", "<f2", 2, None),
        _datatype("BF16", "<f4", 2, None),
        _datatype("FP32", "<f4", 4, "fp32_contents"),
        _datatype("FP64", "<f8", 8, "fp64_contents"),
        _datatype("BYTES", "O", _LENGTH.size, "bytes_contents"),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named array and its datatype on the wire. A decoded array may be read-only."""

    name: str
    datatype: str
    array: Array


def datatype_named(name: str, tensor: str) -> Datatype:
    """The datatype of that name; raises InvalidInput that names `tensor` and what may stand there."""
    datatype = DATATYPES.get(name)
    if datatype is None:
        valid = ", ".join(DATATYPES)
        raise InvalidInput(f"tensor '{tensor}' has datatype '{name}'; valid are {valid}", field="datatype")
    return datatype


def element_count(shape: Sequence[int], datatype: Datatype, tensor: str) -> int:
    """Product of the dimensions (1 for rank 0).

    Raises InvalidInput for a rank above MAX_RANK, a negative dimension, or an array of more than MAX_BYTES; a zero
    dimension does not hide the size of the others.
    """
    if len(shape) > MAX_RANK:
        raise InvalidInput(f"tensor '{tensor}' has {len(shape)} dimensions; at most {MAX_RANK}", field="shape")
    count = 1
    size_bytes = datatype.dtype.itemsize
    for dim in shape:
        if dim < 0:
            raise InvalidInput(f"tensor '{tensor}' has the negative dimension {dim}", field="shape")
        count *= dim
        size_bytes *= dim or 1
    if size_bytes > MAX_BYTES:
        raise InvalidInput(f"tensor '{tensor}' has shape {list(shape)}, more than 2^63-1 bytes", field="shape")
    return count


def decode_request(request: oip.ModelInferRequest, raw: Sequence[RawContents] | None = None) -> dict[str, Tensor]:
    """The inputs by name. Raises InvalidInput for a name given twice and for contents that do not fit the shape.

    raw: the raw contents, where they were taken out of the message.
    """
    return _decode_all(request.inputs, request.raw_input_contents if raw is None else raw, "input")


def decode_response(response: oip.ModelInferResponse) -> dict[str, Tensor]:
    """The outputs by name. Raises as `decode_request`: a peer's answer is input too."""
    return _decode_all(response.outputs, response.raw_output_contents, "output")


def encode_request(request: oip.ModelInferRequest, tensors: Sequence[Tensor], *, raw: bool = True) -> None:
    """Add `tensors` as inputs, raw or typed; FP16 and BF16 make all of them raw."""
    for contents in _encode_all(request.inputs.add, tensors, raw=raw):
        request.raw_input_contents.append(bytes_of(contents))


def encode_response(response: oip.ModelInferResponse, tensors: Sequence[Tensor], *, raw: bool) -> None:
    """Add `tensors` as outputs, raw or typed; FP16 and BF16 make all of them raw."""
    for contents in encode_outputs(response, tensors, raw=raw):
        response.raw_output_contents.append(bytes_of(contents))


def encode_outputs(response: oip.ModelInferResponse, tensors: Sequence[Tensor], *, raw: bool) -> list[Buffer]:
    """As `encode_response`, but for the raw contents, which are returned and not copied into the message.

    Arrays among them are C-contiguous and may be the tensors' own.
    """
    return _encode_all(response.outputs.add, tensors, raw=raw)


def bytes_of(contents: Buffer) -> bytes:
    return contents if isinstance(contents, bytes) else contents.tobytes()


_WireTensor = oip.ModelInferRequest.InferInputTensor | oip.ModelInferResponse.InferOutputTensor


def _decode_all(wire: Sequence[_WireTensor], raw: Sequence[RawContents], kind: str) -> dict[str, Tensor]:
    if raw and len(raw) != len(wire):
        raise InvalidInput(f"{len(raw)} raw {kind} contents for {len(wire)} {kind}s", field=f"raw_{kind}_contents")
    tensors: dict[str, Tensor] = {}
    # Each look at an entry of the message's raw contents copies it: one look each.
    for tensor, contents in zip(wire, raw or repeat(None), strict=False):
        name, datatype = tensor.name, tensor.datatype
        if name in tensors:
            raise InvalidInput(f"{kind} '{name}' is given twice", field=f"{kind}s")
        array = _decode_typed(tensor) if contents is None else _decode_raw(tensor, contents)
        tensors[name] = Tensor(name, datatype, array)
    return tensors


def _decode_raw(tensor: _WireTensor, raw: RawContents) -> Array:
    # MLServer's client sets the message and leaves it empty: that is no contents.
    if tensor.HasField("contents") and tensor.contents.ListFields():
        raise InvalidInput(f"tensor '{tensor.name}' has both raw and typed contents", field="contents")
    datatype = datatype_named(tensor.datatype, tensor.name)
    shape = tuple(tensor.shape)
    count = element_count(shape, datatype, tensor.name)
    if datatype.name == "BYTES":
        return _object_array(_split_bytes(raw, count, tensor.name), shape)
    if len(raw) != count * datatype.size_bytes:
        raise InvalidInput(
            f"tensor '{tensor.name}' of shape {list(shape)} and datatype {datatype.name} takes"
            f" {count * datatype.size_bytes} raw bytes; got {len(raw)}",
            field="raw_input_contents",
        )
    if datatype.name == "BF16":
        return _widen_bf16(raw).reshape(shape)
    if datatype.name == "BOOL":
        return _read_bools(raw).reshape(shape)
    return np.frombuffer(raw, dtype=datatype.dtype).reshape(shape)


def _split_bytes(raw: RawContents, count: int, tensor: str) -> list[bytes]:
    """The `count` elements of a raw BYTES tensor: each a 4-byte little-endian length and that many bytes."""
    if len(raw) < count * _LENGTH.size:
        raise InvalidInput(f"tensor '{tensor}' has {len(raw)} raw bytes, too few for {count} BYTES elements")
    elements: list[bytes] = []
    unpack_length, end = _LENGTH.unpack_from, 0
    try:
        for _ in range(count):
            start = end + _LENGTH.size
            end = start + unpack_length(raw, end)[0]
            elements.append(bytes(raw[start:end]))  # a slice past the end is short: noticed by the next, or below
    except struct.error:
        end = len(raw) + 1
    if end > len(raw):
        raise _broken_bytes(raw, count, tensor)
    if end < len(raw):
        raise InvalidInput(f"tensor '{tensor}' has {len(raw) - end} bytes after its {count} BYTES elements")
    return elements


def _broken_bytes(raw: RawContents, count: int, tensor: str) -> InvalidInput:
    """What is wrong with raw BYTES whose elements do not end where they should."""
    offset = 0
    for index in range(count):
        start = offset + _LENGTH.size
        if start > len(raw):
            return InvalidInput(f"tensor '{tensor}' ends after {index} of {count} BYTES elements")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset = start + length
        if offset > len(raw):
            return InvalidInput(
                f"tensor '{tensor}': BYTES element {index} says {length} bytes; {len(raw) - start} are left"
            )
    raise AssertionError("the elements end within the contents")


def _decode_typed(tensor: _WireTensor) -> Array:
    datatype = datatype_named(tensor.datatype, tensor.name)
    shape = tuple(tensor.shape)
    count = element_count(shape, datatype, tensor.name)
    field = datatype.contents_field
    if field is None:
        raise InvalidInput(f"tensor '{tensor.name}' has datatype {datatype.name}, which travels only as raw contents")
    contents = tensor.contents
    present = [each.name for each, _ in contents.ListFields()]
    if len(present) > 1:
        raise InvalidInput(f"tensor '{tensor.name}' has {' and '.join(present)}; one may be set", field="contents")
    if present and present[0] != field:
        raise InvalidInput(
            f"tensor '{tensor.name}' of datatype {datatype.name} takes {field}, not {present[0]}", field="contents"
        )
    values = getattr(contents, field)
    if len(values) != count:
        raise InvalidInput(
            f"tensor '{tensor.name}' of shape {list(shape)} takes {count} elements; got {len(values)}",
            field="contents",
        )
    if datatype.name == "BYTES":
        return _object_array(list(values), shape)
    if field in _PACKED_TAGS and count:
        return _packed(contents, datatype, count, field).reshape(shape)
    return _narrow(values, datatype, tensor.name).reshape(shape)


# Fields whose packed encoding is the array's memory (protobuf's "Encoding" page, "Packed Repeated Fields"): tag → what
# follows is a length and the elements, little-endian.
_PACKED_TAGS: Mapping[str, bytes] = {
    field: bytes([oip.InferTensorContents.DESCRIPTOR.fields_by_name[field].number << 3 | 2])
    for field in ("bool_contents", "fp32_contents", "fp64_contents")
}


def _packed(contents: oip.InferTensorContents, datatype: Datatype, count: int, field: str) -> Array:
    """The `count` values of the one field that is set, as a view of its encoding: protobuf copies them all at once."""
    wire = contents.SerializeToString()
    start = 1 + len(varint(count * datatype.size_bytes))
    assert wire[:1] == _PACKED_TAGS[field], "known fields come first in an encoding, by number"
    return np.frombuffer(wire, datatype.dtype, count, start)


def varint(number: int) -> bytes:
    """Protobuf's encoding of a non-negative number: 7 bits a byte, the lowest first."""
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _narrow(values: Sequence[Any], datatype: Datatype, tensor: str) -> Array:
    """Integers as an array; those of 8 and 16 bits travel as 32 bit ones, so their range is checked here."""
    if datatype.size_bytes >= 4 or not values:
        return np.fromiter(values, dtype=datatype.dtype, count=len(values))
    wide = np.fromiter(values, dtype=np.int64, count=len(values))
    limits = np.iinfo(datatype.dtype)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        outside = int(wide[(wide < limits.min) | (wide > limits.max)][0])
        raise InvalidInput(
            f"tensor '{tensor}' holds {outside}; {datatype.name} takes {limits.min} to {limits.max}",
            field="contents",
        )
    return wide.astype(datatype.dtype)


def _encode_all(add: Callable[..., _WireTensor], tensors: Sequence[Tensor], *, raw: bool) -> list[Buffer]:
    """Adds the tensors to the message, but for their raw contents, which it returns; typed ones have none."""
    raw = raw or any(DATATYPES[tensor.datatype].contents_field is None for tensor in tensors)
    contents: list[Buffer] = []
    for tensor in tensors:
        wire = add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if raw:
            contents.append(_to_raw(tensor))
        else:
            _fill_contents(wire.contents, tensor)
    return contents


def _to_raw(tensor: Tensor) -> Buffer:
    if tensor.datatype == "BYTES":
        return _join_bytes(tensor.array)
    if tensor.datatype == "BF16":
        return _round_to_bf16(tensor.array)
    return np.asarray(tensor.array, DATATYPES[tensor.datatype].dtype, order="C")


def _join_bytes(array: Array) -> bytes:
    """Each element after its length, 4 bytes, little-endian."""
    elements = array.ravel().tolist()
    parts = [b""] * (2 * len(elements))
    parts[::2] = map(_LENGTH.pack, map(len, elements))
    parts[1::2] = elements
    return b"".join(parts)


def _fill_contents(contents: oip.InferTensorContents, tensor: Tensor) -> None:
    datatype = DATATYPES[tensor.datatype]
    field = datatype.contents_field
    if field is None or tensor.array.size == 0:
        return
    if field in _PACKED_TAGS:
        octets = tensor.array.astype(datatype.dtype, copy=False).tobytes()
        contents.MergeFromString(_PACKED_TAGS[field] + varint(len(octets)) + octets)
    else:
        getattr(contents, field).extend(tensor.array.ravel().tolist())


def _object_array(elements: list[bytes], shape: Sequence[int]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _read_bools(raw: RawContents) -> NDArray[np.bool_]:
    """Bytes as booleans, in place when all are 0 or 1; any other byte counts as true, as in C."""
    octets = np.frombuffer(raw, dtype=np.uint8)
    if octets.size and octets.max() > 1:
        return np.not_equal(octets, 0)
    return octets.view(np.bool_)


def _widen_bf16(raw: RawContents) -> Array:
    """A bfloat16 is the upper half of a float32."""
    wide = np.frombuffer(raw, dtype="<u2").astype("<u4")
    wide <<= 16
    return wide.view("<f4")


def _round_to_bf16(array: Array) -> NDArray[np.uint16]:
    """Upper halves, rounded to nearest, ties to even. NaN is set apart: rounding could carry it into infinity."""
    bits = np.asarray(array, "<f4", order="C").view("<u4")
    rounded = bits >> 16
    rounded &= 1
    rounded += 0x7FFF
    rounded += bits  # carries out of 32 bits only for NaN
    rounded >>= 16
    is_nan = np.isnan(array)
    if is_nan.any():
        rounded[is_nan] = (bits[is_nan] >> 16) | 0x40  # a quiet one
    return rounded.astype("<u2")
