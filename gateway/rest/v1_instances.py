"""V1's `instances` and `inputs` as tensors, and outputs as `predictions`, by what the model says of itself.

`instances` has an element per row: a value, or for several inputs an object of values by input. `inputs` as an object
has whole columns by input; as a list it is another word for `instances` (KServe's way). Bytes that are no text are
{"b64": …} both ways (TensorFlow Serving's).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import numpy as np

from gateway.rest.bodies import Json
from gateway.rest.infer_wire import RawTensor
from gateway.rest.tensor_json import flatten, pack_bytes, raw_from_json, with_non_finite
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Array, Tensor, datatype_named, element_count

TensorMetadata = oip.ModelMetadataResponse.TensorMetadata

_B64 = {"b64"}


def instances_of(body: dict[str, Json]) -> list[Json]:
    """The rows of the body. Raises InvalidInput when there are none."""
    instances = body.get("instances", body.get("inputs"))
    if not isinstance(instances, list) or not instances:
        raise InvalidInput("'instances' must be a list with at least one instance", field="instances")
    return instances


def is_columnar(body: dict[str, Json]) -> bool:
    """True when the body has whole columns by input."""
    return "instances" not in body and isinstance(body.get("inputs"), dict)


def tensors_of(body: dict[str, Json], metadata: oip.ModelMetadataResponse) -> list[RawTensor]:
    """The inputs of the model. Raises InvalidInput for unknown or missing inputs and for data that does not fit."""
    columns = body["inputs"] if is_columnar(body) else _columns(instances_of(body), metadata)
    known = {tensor.name: tensor for tensor in metadata.inputs}
    unknown = [name for name in columns if name not in known]
    if unknown:
        raise InvalidInput(
            f"model '{metadata.name}' has no input {unknown[0][:64]!a}; its inputs are {', '.join(known)}",
            field="inputs",
        )
    return [_tensor(known[name], column) for name, column in columns.items()]


def add_inputs(request: oip.ModelInferRequest, tensors: list[RawTensor]) -> None:
    """Add `tensors` to a message."""
    for tensor in tensors:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(bytes(tensor.raw))


def predictions_of(tensors: Mapping[str, Tensor], num_instances: int, *, non_finite: bool = False) -> Json:
    """A list with an element per instance: the value of the only output, or an object of values by output.

    Outputs that have no row per instance come whole, by name. Arrays are numpy's, for the JSON library to write; what
    is not finite becomes null, or with `non_finite` its name.
    """
    if any(tensor.array.shape[:1] != (num_instances,) for tensor in tensors.values()):
        return outputs_of(tensors, non_finite=non_finite)
    if len(tensors) == 1:
        return _whole(next(iter(tensors.values())), non_finite=non_finite)
    columns = [[_written(row, non_finite=non_finite) for row in _writable(tensor)] for tensor in tensors.values()]
    return [dict(zip(tensors, row, strict=True)) for row in zip(*columns, strict=True)]


def outputs_of(tensors: Mapping[str, Tensor], *, non_finite: bool = False) -> Json:
    """Whole columns by output, for requests that were columnar."""
    return {name: _whole(tensor, non_finite=non_finite) for name, tensor in tensors.items()}


def _columns(instances: list[Json], metadata: oip.ModelMetadataResponse) -> dict[str, Json]:
    if isinstance(instances[0], dict) and not _is_only_bytes(instances[0], metadata):
        names = list(instances[0])
        if not all(isinstance(one, dict) and list(one) == names for one in instances):
            raise InvalidInput("all instances must have the same inputs, in the same order", field="instances")
        return {name: [one[name] for one in instances] for name in names}
    if len(metadata.inputs) != 1:
        names = [tensor.name for tensor in metadata.inputs]
        raise InvalidInput(
            f"model '{metadata.name}' has the inputs {', '.join(names)}: each instance must be an object of them",
            field="instances",
        )
    return {metadata.inputs[0].name: instances}


def _is_only_bytes(instance: dict[str, Json], metadata: oip.ModelMetadataResponse) -> bool:
    """Whether the object is a value, {"b64": …}, rather than one of values by input."""
    return set(instance) == _B64 and all(tensor.name != "b64" for tensor in metadata.inputs)


def _tensor(described: TensorMetadata, column: Json) -> RawTensor:
    name = described.name
    if not isinstance(column, list):
        raise InvalidInput(f"input '{name}' must be a list", field=name)
    datatype = datatype_named(described.datatype, name)
    values, shape = flatten(column, name)
    if datatype.name == "BYTES" and any(isinstance(value, dict) for value in values):
        element_count(shape, datatype, name)
        return RawTensor(name, datatype.name, shape, pack_bytes([_element(value, name) for value in values]))
    return RawTensor(name, datatype.name, shape, raw_from_json(values, datatype, shape, name))


def _element(value: Json, name: str) -> bytes:
    if isinstance(value, str):
        return value.encode()
    encoded = value.get("b64") if isinstance(value, dict) and set(value) == _B64 else None
    if not isinstance(encoded, str):
        raise InvalidInput(f"input '{name}' takes strings, and {{\"b64\": string}} for bytes", field=name)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(f"input '{name}' has a b64 that is not base64", field=name) from None


def _whole(tensor: Tensor, *, non_finite: bool) -> Json:
    return _written(_writable(tensor), non_finite=non_finite)


def _writable(tensor: Tensor) -> Json:
    """The values as an array of numbers, or as nested lists of strings."""
    if tensor.datatype != "BYTES":
        return np.ascontiguousarray(tensor.array).reshape(tensor.array.shape)
    return _strings(tensor.array.tolist())


def _strings(values: Json) -> Json:
    if isinstance(values, list):
        return [_strings(value) for value in values]
    try:
        return values.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(values).decode()}


def _written(values: Json, *, non_finite: bool) -> Json:
    """A form that the JSON library takes: it knows arrays, but none of rank 0 and none that are not finite."""
    if not isinstance(values, np.ndarray | np.generic):
        return values
    array: Array = np.asarray(values)
    is_odd = array.dtype.kind == "f" and not np.isfinite(array).all()
    if is_odd and non_finite:
        return with_non_finite(array)
    if array.ndim:
        return array
    return None if is_odd else array[()]
