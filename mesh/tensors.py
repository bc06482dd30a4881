"""OIP tensors to ndarrays and back: datatypes, shapes, sizes, typed and raw contents.

Sizes are checked before anything is allocated, and numeric raw contents are read in place: the array is a
read-only view of the message. What a model wants of its tensors (names, ranks, dimensions) is not known here. The
rules are those of the Open Inference Protocol's "tensor data" and of Triton's binary encoding of BYTES.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    negative = next((dim for dim in shape if dim < 0), None)
    if negative is not None:
        raise InvalidInput(f"tensor '{tensor}' has the negative dimension {negative}", field="shape")
    if math.prod(max(dim, 1) for dim in shape) * datatype.dtype.itemsize > MAX_BYTES:
        raise InvalidInput(f"tensor '{tensor}' has shape {list(shape)}, more than 2^63-1 bytes", field="shape")
    return math.prod(shape)


def decode_request(request: oip.ModelInferRequest) -> dict[str, Tensor]:
    """The inputs by name. Raises InvalidInput for a name given twice and for contents that do not fit the shape."""
    return _decode_all(request.inputs, request.raw_input_contents, "input")


def decode_response(response: oip.ModelInferResponse) -> dict[str, Tensor]:
    """The outputs by name. Raises as `decode_request`: a peer's answer is input too."""
    return _decode_all(response.outputs, response.raw_output_contents, "output")


def encode_request(request: oip.ModelInferRequest, tensors: Sequence[Tensor], *, raw: bool = True) -> None:
    """Add `tensors` as inputs, raw or typed; FP16 and BF16 make all of them raw."""
    _encode_all(request.inputs.add, request.raw_input_contents.append, tensors, raw=raw)


def encode_response(response: oip.ModelInferResponse, tensors: Sequence[Tensor], *, raw: bool) -> None:
    """Add `tensors` as outputs, raw or typed; FP16 and BF16 make all of them raw."""
    _encode_all(response.outputs.add, response.raw_output_contents.append, tensors, raw=raw)


_WireTensor = oip.ModelInferRequest.InferInputTensor | oip.ModelInferResponse.InferOutputTensor


def _decode_all(wire: Sequence[_WireTensor], raw: Sequence[bytes], kind: str) -> dict[str, Tensor]:
    if raw and len(raw) != len(wire):
        raise InvalidInput(f"{len(raw)} raw {kind} contents for {len(wire)} {kind}s", field=f"raw_{kind}_contents")
    tensors: dict[str, Tensor] = {}
    for index, tensor in enumerate(wire):
        if tensor.name in tensors:
            raise InvalidInput(f"{kind} '{tensor.name}' is given twice", field=f"{kind}s")
        array = _decode_raw(tensor, raw[index]) if raw else _decode_typed(tensor)
        tensors[tensor.name] = Tensor(tensor.name, tensor.datatype, array)
    return tensors


def _decode_raw(tensor: _WireTensor, raw: bytes) -> Array:
    if tensor.HasField("contents"):
        raise InvalidInput(f"tensor '{tensor.name}' has both raw and typed contents", field="contents")
    datatype = datatype_named(tensor.datatype, tensor.name)
    count = element_count(tensor.shape, datatype, tensor.name)
    if datatype.name == "BYTES":
        return _object_array(_split_bytes(raw, count, tensor.name), tensor.shape)
    if len(raw) != count * datatype.size_bytes:
        raise InvalidInput(
            f"tensor '{tensor.name}' of shape {list(tensor.shape)} and datatype {datatype.name} takes"
            f" {count * datatype.size_bytes} raw bytes; got {len(raw)}",
            field="raw_input_contents",
        )
    if datatype.name == "BF16":
        return _widen_bf16(raw).reshape(tensor.shape)
    if datatype.name == "BOOL":
        return _read_bools(raw).reshape(tensor.shape)
    return np.frombuffer(raw, dtype=datatype.dtype).reshape(tensor.shape)


def _split_bytes(raw: bytes, count: int, tensor: str) -> list[bytes]:
    """The `count` elements of a raw BYTES tensor: each a 4-byte little-endian length and that many bytes."""
    if len(raw) < count * _LENGTH.size:
        raise InvalidInput(f"tensor '{tensor}' has {len(raw)} raw bytes, too few for {count} BYTES elements")
    elements = []
    offset = 0
    for index in range(count):
        start = offset + _LENGTH.size
        if start > len(raw):
            raise InvalidInput(f"tensor '{tensor}' ends after {index} of {count} BYTES elements")
        (length,) = _LENGTH.unpack_from(raw, offset)
        offset = start + length
        if offset > len(raw):
            raise InvalidInput(
                f"tensor '{tensor}': BYTES element {index} says {length} bytes; {len(raw) - start} are left"
            )
        elements.append(raw[start:offset])
    if offset != len(raw):
        raise InvalidInput(f"tensor '{tensor}' has {len(raw) - offset} bytes after its {count} BYTES elements")
    return elements


def _decode_typed(tensor: _WireTensor) -> Array:
    datatype = datatype_named(tensor.datatype, tensor.name)
    count = element_count(tensor.shape, datatype, tensor.name)
    if datatype.contents_field is None:
        raise InvalidInput(f"tensor '{tensor.name}' has datatype {datatype.name}, which travels only as raw contents")
    present = [field.name for field, _ in tensor.contents.ListFields()]
    if len(present) > 1:
        raise InvalidInput(f"tensor '{tensor.name}' has {' and '.join(present)}; one may be set", field="contents")
    if present and present[0] != datatype.contents_field:
        raise InvalidInput(
            f"tensor '{tensor.name}' of datatype {datatype.name} takes {datatype.contents_field}, not {present[0]}",
            field="contents",
        )
    values = getattr(tensor.contents, datatype.contents_field)
    if len(values) != count:
        raise InvalidInput(
            f"tensor '{tensor.name}' of shape {list(tensor.shape)} takes {count} elements; got {len(values)}",
            field="contents",
        )
    if datatype.name == "BYTES":
        return _object_array(list(values), tensor.shape)
    return _narrow(values, datatype, tensor.name).reshape(tensor.shape)


def _narrow(values: Sequence[Any], datatype: Datatype, tensor: str) -> Array:
    """Values as an array; 8 and 16 bit integers travel as 32 bit ones, so their range is checked here."""
    if datatype.dtype.kind not in "iu" or datatype.size_bytes >= 4:
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


def _encode_all(
    add: Callable[..., _WireTensor],
    append_raw: Callable[[bytes], None],
    tensors: Sequence[Tensor],
    *,
    raw: bool,
) -> None:
    raw = raw or any(DATATYPES[tensor.datatype].contents_field is None for tensor in tensors)
    for tensor in tensors:
        wire = add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if raw:
            append_raw(_to_raw(tensor))
        else:
            _fill_contents(wire.contents, tensor)


def _to_raw(tensor: Tensor) -> bytes:
    if tensor.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(element)) + element for element in tensor.array.flat)
    if tensor.datatype == "BF16":
        return _round_to_bf16(tensor.array).tobytes()
    array: Array = tensor.array.astype(DATATYPES[tensor.datatype].dtype, copy=False)
    return array.tobytes()


def _fill_contents(contents: oip.InferTensorContents, tensor: Tensor) -> None:
    field = DATATYPES[tensor.datatype].contents_field
    if field is None or tensor.array.size == 0:
        return
    getattr(contents, field).extend(tensor.array.ravel().tolist())


def _object_array(elements: list[bytes], shape: Sequence[int]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array.reshape(shape)


def _read_bools(raw: bytes) -> NDArray[np.bool_]:
    """Bytes as booleans, in place when all are 0 or 1; any other byte counts as true, as in C."""
    octets = np.frombuffer(raw, dtype=np.uint8)
    if octets.size and octets.max() > 1:
        return np.not_equal(octets, 0)
    return octets.view(np.bool_)


def _widen_bf16(raw: bytes) -> Array:
    """A bfloat16 is the upper half of a float32."""
    return (np.frombuffer(raw, dtype="<u2").astype("<u4") << 16).view("<f4")


def _round_to_bf16(array: Array) -> NDArray[np.uint16]:
    """Upper halves, rounded to nearest, ties to even. NaN is set apart: rounding could carry it into infinity."""
    bits = np.ascontiguousarray(array, dtype="<f4").view("<u4").astype(np.uint64)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    quiet_nan = ((bits >> 16) | 0x40).astype("<u2")
    return np.where(np.isnan(array), quiet_nan, rounded)
