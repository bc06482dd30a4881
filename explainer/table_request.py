"""Reads what a request and a model's configuration say of a table: rows, baseline, names, options of the method.

Everything is checked here, once; what comes out is a value that the rest of the explainer trusts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mesh.errors import CorruptArtifact, InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, decode_request

MAX_FEATURES = 512
MAX_ROWS = 4096
MAX_SAMPLES = 65_536

_FLOATING = ("FP16", "BF16", "FP32", "FP64")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """What is explained. rows: [R, P], of the input `name`. baseline: [P]. features: names, P of them."""

    name: str
    datatype: str
    rows: NDArray[np.float64]
    baseline: NDArray[np.float64]
    features: list[str]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the model's configuration says, as far as explanations want it; lists that it lacks are empty."""

    max_batch_size: int
    feature_names: list[str]
    feature_baseline: list[float]
    class_names: list[str]


def read_facts(config: oip.ModelConfig) -> ModelFacts:
    """Raises CorruptArtifact when a parameter of the model is not what its name promises."""

    def entries(name: str) -> list[object]:
        text = config.parameters[name].string_value if name in config.parameters else "[]"
        found = _json_list(text)
        if found is None:
            raise CorruptArtifact(f"the configuration of model '{config.name}' has {name}, which is not a JSON list")
        return found

    baseline = _as_numbers(entries("feature_baseline"))
    if baseline is None:
        raise CorruptArtifact(f"the configuration of model '{config.name}' has feature_baseline, not all numbers")
    feature_names, class_names = ([str(entry) for entry in entries(name)] for name in ("feature_names", "class_names"))
    return ModelFacts(config.max_batch_size, feature_names, baseline, class_names)


def read_input(request: oip.ModelInferRequest) -> Tensor:
    """The one input of the request. Raises InvalidInput unless it is floating point, [rows, features], not empty."""
    tensors = list(decode_request(request).values())
    if len(tensors) != 1:
        raise InvalidInput(f"infer has {len(tensors)} inputs; an explanation takes exactly one", field="infer.inputs")
    [tensor] = tensors
    if tensor.datatype not in _FLOATING:
        raise InvalidInput(
            f"input '{tensor.name}' has datatype {tensor.datatype}; an explanation takes {', '.join(_FLOATING)}",
            field="infer.inputs",
        )
    if tensor.array.ndim != 2 or 0 in tensor.array.shape:
        raise InvalidInput(
            f"input '{tensor.name}' has shape {list(tensor.array.shape)}; an explanation takes [rows, features], "
            "at least one of each",
            field="infer.inputs",
        )
    num_rows, num_features = tensor.array.shape
    if num_features > MAX_FEATURES:
        raise InvalidInput(
            f"{num_features} features; an explanation takes at most {MAX_FEATURES}", field="infer.inputs"
        )
    if num_rows > MAX_ROWS:
        raise InvalidInput(f"{num_rows} rows; an explanation takes at most {MAX_ROWS}", field="infer.inputs")
    return tensor


def read_table(tensor: Tensor, request: oip.ModelInferRequest, facts: ModelFacts) -> Table:
    """`tensor` with the baseline of the request's parameter, else the model's own, else zeros. Raises InvalidInput."""
    rows = tensor.array.astype(np.float64)
    num_features = rows.shape[1]
    has_names = len(facts.feature_names) == num_features
    return Table(
        name=tensor.name,
        datatype=tensor.datatype,
        rows=rows,
        baseline=_baseline(request, facts, num_features),
        features=facts.feature_names if has_names else [f"{tensor.name}[{index}]" for index in range(num_features)],
    )


def read_integer(request: oip.ModelInferRequest, name: str, default: int, limit: int) -> int:
    """The request's parameter `name`, 0..`limit`. Raises InvalidInput."""
    parameter = request.parameters.get(name)
    if parameter is None:
        return default
    match parameter.WhichOneof("parameter_choice"):
        case "int64_param":
            value = parameter.int64_param
        case "uint64_param":
            value = parameter.uint64_param
        case _:
            value = -1
    if not 0 <= value <= limit:
        raise InvalidInput(f"parameter {name} must be an integer of 0..{limit}", field=f"infer.parameters.{name}")
    return value


def _baseline(request: oip.ModelInferRequest, facts: ModelFacts, num_features: int) -> NDArray[np.float64]:
    parameter = request.parameters.get("baseline")
    if parameter is None:
        own = facts.feature_baseline
        return np.array(own if len(own) == num_features else np.zeros(num_features), dtype=np.float64)
    values: list[float] | None = None
    match parameter.WhichOneof("parameter_choice"):
        case "string_param":
            values = _as_numbers(_json_list(parameter.string_param))
        case "double_param":
            values = [parameter.double_param] * num_features
        case "int64_param":
            values = [float(parameter.int64_param)] * num_features
    if values is None or len(values) != num_features or not np.isfinite(values).all():
        raise InvalidInput(
            f"parameter baseline must be a finite number, or a JSON list of {num_features} of them",
            field="infer.parameters.baseline",
        )
    return np.array(values)


def _json_list(text: str) -> list[object] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _as_numbers(values: list[object] | None) -> list[float] | None:
    if values is None:
        return None
    try:
        numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    except OverflowError:  # an integer of hundreds of digits
        return None
    return numbers if len(numbers) == len(values) else None
