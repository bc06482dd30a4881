"""V1's rows become tensors by the model's metadata, and outputs become rows again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gateway.rest.v1_instances import instances_of, is_columnar, outputs_of, predictions_of, tensors_of
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor


def metadata(**inputs: str) -> oip.ModelMetadataResponse:
    return oip.ModelMetadataResponse(
        name="m", inputs=[{"name": name, "datatype": datatype} for name, datatype in inputs.items()]
    )


ONE, TWO = metadata(x="FP64"), metadata(a="INT64", b="BYTES")


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ({"instances": [[1, 2], [3, 4], [5, 6]]}, (3, 2)),
        ({"inputs": [[1, 2], [3, 4], [5, 6]]}, (3, 2)),
        ({"instances": [1.5, 2.5]}, (2,)),
        ({"instances": [{"x": [1, 2]}, {"x": [3, 4]}]}, (2, 2)),
        ({"inputs": {"x": [[[1]]]}}, (1, 1, 1)),
    ],
)
def test_rows_become_the_only_input(body: dict[str, Any], shape: tuple[int, ...]) -> None:
    (tensor,) = tensors_of(body, ONE)

    assert (tensor.name, tensor.datatype, tensor.array.shape) == ("x", "FP64", shape)


def test_objects_become_several_inputs() -> None:
    body = {"instances": [{"a": 1, "b": "one"}, {"a": 2**62, "b": "two"}]}

    a, b = tensors_of(body, TWO)

    assert a.array.tolist() == [1, 2**62]
    assert b.array.tolist() == [b"one", b"two"]


@pytest.mark.parametrize(
    ("body", "described", "says"),
    [
        ({}, ONE, "'instances'"),
        ({"instances": []}, ONE, "'instances'"),
        ({"instances": "x"}, ONE, "'instances'"),
        ({"instances": [[1], [2, 3]]}, ONE, "ragged"),
        ({"instances": [["a"]]}, ONE, "takes numbers"),
        ({"instances": [{"y": 1}]}, ONE, "no input 'y'"),
        ({"instances": [1, 2]}, TWO, "must be an object"),
        ({"instances": [{"a": 1, "b": "x"}, {"a": 2}]}, TWO, "same inputs"),
        ({"instances": [{"a": 1, "b": "x"}, 7]}, TWO, "same inputs"),
        ({"inputs": {"x": 7}}, ONE, "must be a list"),
    ],
)
def test_rows_that_do_not_fit_are_named(body: dict[str, Any], described: oip.ModelMetadataResponse, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        tensors_of(body, described)


def tensors(**arrays: Any) -> dict[str, Tensor]:
    kinds = {"i": "INT64", "f": "FP64"}
    made = {name: np.array(values) for name, values in arrays.items()}
    return {name: Tensor(name, kinds[array.dtype.kind], array) for name, array in made.items()}


def test_only_output_is_the_prediction() -> None:
    assert predictions_of(tensors(y=[[1, 2], [3, 4]]), 2) == [[1, 2], [3, 4]]
    assert predictions_of(tensors(y=[0.5, float("nan")]), 2) == [0.5, None]


def test_several_outputs_make_an_object_per_instance() -> None:
    outputs = tensors(label=[0, 2], probabilities=[[0.9, 0.1], [0.2, 0.8]])

    assert predictions_of(outputs, 2) == [
        {"label": 0, "probabilities": [0.9, 0.1]},
        {"label": 2, "probabilities": [0.2, 0.8]},
    ]


def test_outputs_without_a_row_per_instance_come_whole() -> None:
    assert predictions_of(tensors(mean=[0.5]), 3) == {"mean": [0.5]}


def test_columns_stay_columns() -> None:
    body = {"inputs": {"x": [1.0]}}

    assert is_columnar(body)
    assert not is_columnar({"inputs": [1.0]})
    assert outputs_of(tensors(y=[[1.0]])) == {"y": [[1.0]]}
    assert instances_of({"inputs": [1]}) == [1]


def test_empty_inner_dimension_keeps_its_rows() -> None:
    empty = {"y": Tensor("y", "FP64", np.zeros((2, 0)))}

    assert predictions_of(empty, 2) == [[], []]
