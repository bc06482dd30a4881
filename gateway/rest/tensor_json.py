"""Tensors as JSON, both ways: nested or flat `data`, every datatype, 64-bit integers exact.

Numbers go straight into an array of the named datatype, so no element is handled in Python one by one; into protobuf
they go raw. What a model wants of its tensors is not known here. The form is that of the Open Inference Protocol's
REST part.
"""

from __future__ import annotations

import base64
import math
from itertools import chain
from typing import Any

import numpy as np

from mesh.errors import InvalidInput
from mesh.names import shown
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import DATATYPES, MAX_RANK, Array, Datatype, Tensor, datatype_named, element_count

# Values out of a JSON parser: whatever the client wrote.
Json = Any

_MAX_DIMENSION = 2**63 - 1
_KINDS: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true or false"),
    "i": (frozenset({int}), "whole numbers"),
    "u": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}


def tensor_from_json(entry: Json, position: int) -> Tensor:
    """One entry of `inputs`: {"name", "datatype", "shape", "data"}. Raises InvalidInput that names what is wrong."""
    where = f"inputs[{position}]"
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where} must be an object", field=where)
    name = _member(entry, "name", str, where)
    datatype = datatype_named(_member(entry, "datatype", str, where), name)
    shape = _shape(_member(entry, "shape", list, where), name)
    data = _member(entry, "data", list, where)
    return Tensor(name, datatype.name, array_from_json(data, datatype, shape, name))


def array_from_json(data: list[Json], datatype: Datatype, shape: list[int], name: str) -> Array:
    """`data`, flat or nested as `shape` says, as an array of that shape and datatype."""
    values, nesting = flatten(data, name)
    expected = element_count(shape, datatype, name)
    if len(values) != expected:
        raise InvalidInput(
            f"tensor '{name}' of shape {shape} takes {expected} elements; got {len(values)}", field="data"
        )
    if len(nesting) > 1 and values and nesting != shape:
        raise InvalidInput(f"tensor '{name}' has shape {shape}, but its data is nested as {nesting}", field="data")
    return _to_array(values, datatype, name).reshape(shape)


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


def tensor_to_json(tensor: Tensor) -> dict[str, Json]:
    """The REST form, with flat data. What JSON cannot say is null or base64, and a parameter says so."""
    data, parameters = _values(tensor)
    entry: dict[str, Json] = {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.array.shape),
        "data": data,
    }
    if parameters:
        entry["parameters"] = parameters
    return entry


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


def _member(entry: dict[str, Json], key: str, kind: type, where: str) -> Any:
    if key not in entry:
        raise InvalidInput(f"{where} lacks '{key}'", field=f"{where}.{key}")
    value = entry[key]
    if not isinstance(value, kind):
        what = "a string" if kind is str else "a list"
        raise InvalidInput(f"{where}.{key} must be {what}", field=f"{where}.{key}")
    return value


def _shape(shape: list[Json], name: str) -> list[int]:
    for dimension in shape:
        if type(dimension) is not int or not 0 <= dimension <= _MAX_DIMENSION:
            raise InvalidInput(
                f"tensor '{name}' has the dimension {shown(str(dimension))}; dimensions are whole numbers from 0",
                field="shape",
            )
    return shape


def _to_array(values: list[Json], datatype: Datatype, name: str) -> Array:
    allowed, what = _KINDS[datatype.dtype.kind]
    found = set(map(type, values)) - allowed
    if found:
        wrong = ", ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in found))
        raise InvalidInput(f"tensor '{name}' of datatype {datatype.name} takes {what}; got {wrong}", field="data")
    if datatype.name == "BYTES":
        elements = np.empty(len(values), dtype=object)
        elements[:] = [value.encode() for value in values]
        return elements
    try:
        with np.errstate(over="ignore"):
            array: Array = np.array(values, dtype=datatype.dtype)
    except OverflowError:
        raise _out_of_range(datatype, name) from None
    if datatype.dtype.kind == "f" and not np.isfinite(array).all():
        raise _out_of_range(datatype, name)
    return array


def _out_of_range(datatype: Datatype, name: str) -> InvalidInput:
    return InvalidInput(f"tensor '{name}' holds a number that {datatype.name} cannot hold", field="data")


def _values(tensor: Tensor) -> tuple[Json, dict[str, Json]]:
    array = np.ascontiguousarray(tensor.array).ravel()
    if tensor.datatype == "BYTES":
        return _strings(array.tolist())
    if tensor.datatype not in DATATYPES:
        raise InvalidInput(f"output '{tensor.name}' has the unknown datatype '{tensor.datatype}'")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return [value if math.isfinite(value) else None for value in array.tolist()], {"non_finite_as_null": True}
    # Arrays are written by the JSON library itself, in the shortest form that reads back as the same number.
    return array, {}


def _strings(elements: list[bytes]) -> tuple[list[str], dict[str, Json]]:
    try:
        return [element.decode() for element in elements], {}
    except UnicodeDecodeError:
        return [base64.b64encode(element).decode() for element in elements], {"content_type": "base64"}
