"""V1's `instances` and `inputs` as tensors, and outputs as `predictions`, by what the model says of itself.

`instances` has an element per row: a value, or for several inputs an object of values by input. `inputs` as an object
has whole columns by input; as a list it is another word for `instances` (KServe's way).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.rest.bodies import Json
from gateway.rest.tensor_json import array_from_json, flatten, tensor_to_json
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Array, Tensor, datatype_named

TensorMetadata = oip.ModelMetadataResponse.TensorMetadata


def instances_of(body: dict[str, Json]) -> list[Json]:
    """The rows of the body. Raises InvalidInput when there are none."""
    instances = body.get("instances", body.get("inputs"))
    if not isinstance(instances, list) or not instances:
        raise InvalidInput("'instances' must be a list with at least one instance", field="instances")
    return instances


def is_columnar(body: dict[str, Json]) -> bool:
    """True when the body has whole columns by input."""
    return "instances" not in body and isinstance(body.get("inputs"), dict)


def tensors_of(body: dict[str, Json], metadata: oip.ModelMetadataResponse) -> list[Tensor]:
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


def predictions_of(tensors: Mapping[str, Tensor], num_instances: int) -> Json:
    """A list with an element per instance: the value of the only output, or an object of values by output.

    Outputs that have no row per instance come whole, by name.
    """
    columns = {name: _nested(tensor) for name, tensor in tensors.items()}
    if any(tensor.array.shape[:1] != (num_instances,) for tensor in tensors.values()):
        return columns
    if len(columns) == 1:
        return next(iter(columns.values()))
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def outputs_of(tensors: Mapping[str, Tensor]) -> Json:
    """Whole columns by output, for requests that were columnar."""
    return {name: _nested(tensor) for name, tensor in tensors.items()}


def _columns(instances: list[Json], metadata: oip.ModelMetadataResponse) -> dict[str, Json]:
    if isinstance(instances[0], dict):
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


def _tensor(described: TensorMetadata, column: Json) -> Tensor:
    if not isinstance(column, list):
        raise InvalidInput(f"input '{described.name}' must be a list", field=described.name)
    datatype = datatype_named(described.datatype, described.name)
    _, shape = flatten(column, described.name)
    array: Array = array_from_json(column, datatype, shape, described.name)
    return Tensor(described.name, datatype.name, array)


def _nested(tensor: Tensor) -> Json:
    """The values as nested lists; bytes as strings, what is not finite as null."""
    data = tensor_to_json(tensor)["data"]
    values = data if isinstance(data, list) else data.tolist()
    return _folded(values, tensor.array.shape)


def _folded(values: list[Json], shape: Sequence[int]) -> Json:
    if not shape:
        return values[0]
    for size in reversed(shape[1:]):
        values = [values[start : start + size] for start in range(0, len(values), size)] if size else [[]] * shape[0]
    return values
