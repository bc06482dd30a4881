"""Tensors as JSON, both ways: nested or flat `data`, every datatype, 64-bit integers exact.

Numbers are packed as they travel, by one call for the whole tensor: no element is handled in Python one by one, and
what a datatype cannot hold is refused rather than rounded into infinity. What a model wants of its tensors is not known
here. The form is that of the Open Inference Protocol's REST part.
"""

from __future__ import annotations

import base64
import struct
from itertools import chain
from typing import Any

import numpy as np
import orjson

from gateway.rest.bodies import Json
from gateway.rest.infer_wire import RawTensor
from mesh.errors import InvalidInput
from mesh.names import shown
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import DATATYPES, MAX_RANK, Array, Datatype, Tensor, datatype_named, element_count, encode_request

_MAX_DIMENSION = 2**63 - 1

# struct's codes; unlike numpy it takes neither strings nor null for numbers, and has a range for each code.
_CODES = {
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "BF16": "f",
    "FP32": "f",
    "FP64": "d",
}
_LENGTH = struct.Struct("<I")
# From here on a float32 rounds into bfloat16's infinity.
_BF16_LIMIT = np.array([0x7F7F8000], dtype="<u4").view("<f4")[0]

_KINDS: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "whole numbers"),
    "u": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}


def raw_from_json(
    data: list[Json], datatype: Datatype, shape: list[int], name: str, *, may_hold_booleans: bool = True
) -> bytes:
    """`data`, flat or nested as `shape` says, in the protocol's raw form. Raises InvalidInput.

    may_hold_booleans: False when the text that `data` comes from is known to have neither `true` nor `false`.
    """
    values, nesting = flatten(data, name)
    expected = element_count(shape, datatype, name)
    if len(values) != expected:
        raise InvalidInput(
            f"tensor '{name}' of shape {shape} takes {expected} elements; got {len(values)}", field="data"
        )
    if len(nesting) > 1 and values and nesting != shape:
        raise InvalidInput(f"tensor '{name}' has shape {shape}, but its data is nested as {nesting}", field="data")
    if datatype.name == "BYTES":
        return _pack_strings(values, datatype, name)
    return _pack(values, datatype, name, may_hold_booleans=may_hold_booleans)


def pack_bytes(elements: list[bytes]) -> bytes:
    """The raw form of BYTES: each element behind its length."""
    return b"".join(chain.from_iterable((_LENGTH.pack(len(element)), element) for element in elements))


def flatten(data: list[Json], name: str) -> tuple[list[Json], list[int]]:
    """The scalars of a nested list in row-major order, and its shape. Raises InvalidInput when it is ragged."""
    shape = [len(data)]
    while data and isinstance(data[0], list):
        if len(shape) == MAX_RANK:
            raise InvalidInput(f"tensor '{name}' is nested deeper than {MAX_RANK}", field="data")
        if set(map(type, data)) != {list} or len(lengths := set(map(len, data))) != 1:
            raise InvalidInput(f"tensor '{name}' is ragged: lists side by side must be equally long", field="data")
        shape.append(lengths.pop())
        data = list(chain.from_iterable(data))
    return data, shape


def described(entry: Json, position: int) -> tuple[str, Datatype, list[int]]:
    """Name, datatype and shape of one entry of `inputs`. Raises InvalidInput that names what is wrong."""
    where = f"inputs[{position}]"
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where} must be an object", field=where)
    name = member(entry, "name", str, where)
    datatype = datatype_named(member(entry, "datatype", str, where), name)
    return name, datatype, _shape(member(entry, "shape", list, where), name)


def tensor_from_json(entry: Json, position: int, *, may_hold_booleans: bool = True) -> RawTensor:
    """One entry of `inputs`: {"name", "datatype", "shape", "data"}. Raises InvalidInput that names what is wrong."""
    name, datatype, shape = described(entry, position)
    data = member(entry, "data", list, f"inputs[{position}]")
    raw = raw_from_json(data, datatype, shape, name, may_hold_booleans=may_hold_booleans)
    return RawTensor(name, datatype.name, shape, raw)


def tensor_to_json(tensor: Tensor, *, non_finite: bool = False) -> dict[str, Json]:
    """The REST form, with flat data. What JSON cannot say is null or base64, and a parameter says so.

    non_finite: NaN and the infinities are written by name, as JavaScript has them, which is not JSON.
    """
    data, parameters = _values(tensor, non_finite=non_finite)
    entry: dict[str, Json] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.array.shape),
        "data": data,
    }
    if parameters:
        entry["parameters"] = parameters
    return entry


def with_non_finite(array: Array) -> orjson.Fragment:
    """A float array as JSON text with NaN, Infinity and -Infinity by name; all else is as the JSON library has it."""
    if not array.ndim:  # the library takes arrays, and single numbers only as part of a list
        text = orjson.dumps([array[()]], option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    else:
        text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    odd = array[~np.isfinite(array)]
    names = np.where(np.isnan(odd), b"NaN", np.where(odd > 0, b"Infinity", b"-Infinity")).tolist()
    # The library writes each of them as null, and nothing else.
    pieces = text.split(b"null")
    return orjson.Fragment(b"".join(chain.from_iterable(zip(pieces, [*names, b""], strict=True))))


def parameters_from_json(target: Any, parameters: Json, where: str) -> None:
    """Fill a protobuf map of InferParameter from a JSON object of booleans, numbers and strings."""
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise InvalidInput(f"{where} must be an object", field=where)
    for name, value in parameters.items():
        _set_parameter(target[name], value, f"{where}.{name}")


def parameters_to_json(parameters: Any) -> dict[str, Json]:
    """A protobuf map of InferParameter as a JSON object; unset ones are null."""
    values = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, choice) if choice else None
    return values


def member(entry: dict[str, Json], key: str, kind: type, where: str) -> Any:
    """`entry[key]`, which is of type `kind`. Raises InvalidInput. Any: of that type."""
    if key not in entry:
        raise InvalidInput(f"{where} lacks '{key}'", field=f"{where}.{key}")
    value = entry[key]
    if not isinstance(value, kind):
        what = "a string" if kind is str else "a list"
        raise InvalidInput(f"{where}.{key} must be {what}", field=f"{where}.{key}")
    return value


def _set_parameter(parameter: oip.InferParameter, value: Json, where: str) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        # The parser gives whole numbers of at most 64 bits; larger ones come as floats.
        if value > _MAX_DIMENSION:
            parameter.uint64_param = value
        else:
            parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    elif isinstance(value, str):
        parameter.string_param = value
    else:
        raise InvalidInput(f"{where} must be a boolean, a number or a string", field=where)


def _shape(shape: list[Json], name: str) -> list[int]:
    for dimension in shape:
        if type(dimension) is not int or not 0 <= dimension <= _MAX_DIMENSION:
            raise InvalidInput(
                f"tensor '{name}' has the dimension {shown(str(dimension))}; dimensions are whole numbers from 0",
                field="shape",
            )
    return shape


def _pack(values: list[Json], datatype: Datatype, name: str, *, may_hold_booleans: bool) -> bytes:
    if datatype.name == "BOOL":
        _check_types(values, datatype, name)
        return bytes(values)
    # For struct `true` is a 1.
    if may_hold_booleans:
        _check_types(values, datatype, name)
    try:
        raw = struct.pack(f"<{len(values)}{_CODES[datatype.name]}", *values)
    except (struct.error, OverflowError):
        _check_types(values, datatype, name)
        raise _out_of_range(datatype, name) from None
    return raw if datatype.name != "BF16" else _halved(raw, datatype, name)


def _pack_strings(values: list[Json], datatype: Datatype, name: str) -> bytes:
    _check_types(values, datatype, name)
    return pack_bytes([value.encode() for value in values])


def _halved(raw: bytes, datatype: Datatype, name: str) -> bytes:
    """The upper halves of float32s, rounded."""
    array = np.frombuffer(raw, dtype="<f4")
    if (np.isfinite(array) & (np.abs(array) >= _BF16_LIMIT)).any():
        raise _out_of_range(datatype, name)
    request = oip.ModelInferRequest()
    encode_request(request, [Tensor(name, datatype.name, array)], raw=True)
    return request.raw_input_contents[0]


def _check_types(values: list[Json], datatype: Datatype, name: str) -> None:
    allowed, what = _KINDS[datatype.dtype.kind]
    found = set(map(type, values)) - allowed
    if found:
        wrong = ", ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in found))
        raise InvalidInput(f"tensor '{name}' of datatype {datatype.name} takes {what}; got {wrong}", field="data")


def _out_of_range(datatype: Datatype, name: str) -> InvalidInput:
    return InvalidInput(f"tensor '{name}' holds a number that {datatype.name} cannot hold", field="data")


def _values(tensor: Tensor, *, non_finite: bool) -> tuple[Json, dict[str, Json]]:
    array = np.ascontiguousarray(tensor.array).ravel()
    if tensor.datatype == "BYTES":
        return _strings(array.tolist())
    if tensor.datatype not in DATATYPES:
        raise InvalidInput(f"output '{tensor.name}' has the unknown datatype '{tensor.datatype}'")
    # Arrays are written by the JSON library itself, in the shortest form that reads back as the same number.
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array, {}
    if non_finite:
        return with_non_finite(array), {}
    return array, {"non_finite_as_null": True}


def _strings(elements: list[bytes]) -> tuple[list[str], dict[str, Json]]:
    try:
        return [element.decode() for element in elements], {}
    except UnicodeDecodeError:
        return [base64.b64encode(element).decode() for element in elements], {"content_type": "base64"}
