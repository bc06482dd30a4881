"""V1's rows become tensors by the model's metadata, and outputs become rows again."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
import pytest

from gateway.rest.bodies import json_bytes
from gateway.rest.v1_instances import instances_of, is_columnar, outputs_of, predictions_of, tensors_of
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import DATATYPES, Tensor


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

    assert (tensor.name, tensor.datatype, tuple(tensor.shape)) == ("x", "FP64", shape)


def test_objects_become_several_inputs() -> None:
    body = {"instances": [{"a": 1, "b": "one"}, {"a": 2**62, "b": "two"}]}

    a, b = tensors_of(body, TWO)

    assert a.raw == struct.pack("<2q", 1, 2**62)
    assert b.raw == b"\3\0\0\0one\3\0\0\0two"


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


def as_json(value: Any) -> Any:
    return orjson.loads(json_bytes(value))


def test_only_output_is_the_prediction() -> None:
    assert as_json(predictions_of(tensors(y=[[1, 2], [3, 4]]), 2)) == [[1, 2], [3, 4]]
    assert as_json(predictions_of(tensors(y=[0.5, float("nan")]), 2)) == [0.5, None]


def test_several_outputs_make_an_object_per_instance() -> None:
    outputs = tensors(label=[0, 2], probabilities=[[0.9, 0.1], [0.2, 0.8]])

    assert as_json(predictions_of(outputs, 2)) == [
        {"label": 0, "probabilities": [0.9, 0.1]},
        {"label": 2, "probabilities": [0.2, 0.8]},
    ]


def test_outputs_without_a_row_per_instance_come_whole() -> None:
    assert as_json(predictions_of(tensors(mean=[0.5]), 3)) == {"mean": [0.5]}


def test_columns_stay_columns() -> None:
    body = {"inputs": {"x": [1.0]}}

    assert is_columnar(body)
    assert not is_columnar({"inputs": [1.0]})
    assert as_json(outputs_of(tensors(y=[[1.0]]))) == {"y": [[1.0]]}
    assert instances_of({"inputs": [1]}) == [1]


def test_empty_inner_dimension_keeps_its_rows() -> None:
    empty = {"y": Tensor("y", "FP64", np.zeros((2, 0)))}

    assert as_json(predictions_of(empty, 2)) == [[], []]


TEXT = metadata(x="BYTES")


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"b64": "//4="}, "ab"]},
        {"instances": [{"x": {"b64": "//4="}}, {"x": "ab"}]},
        {"inputs": {"x": [{"b64": "//4="}, {"b64": "YWI="}]}},
    ],
)
def test_bytes_that_are_no_text_come_as_base64(body: dict[str, Any]) -> None:
    (tensor,) = tensors_of(body, TEXT)

    assert (tensor.shape, tensor.raw) == ([2], b"\2\0\0\0\xff\xfe\2\0\0\0ab")


def test_bytes_that_are_no_text_go_as_base64() -> None:
    array = np.empty((2, 1), dtype=object)
    array[:, 0] = [b"\xff\xfe", b"ab"]

    assert predictions_of({"y": Tensor("y", "BYTES", array)}, 2) == [[{"b64": "//4="}], ["ab"]]


@pytest.mark.parametrize(
    ("instance", "says"),
    [({"b64": "!"}, "not base64"), ({"b64": "é"}, "not base64"), ({"b64": 7}, "strings"), ([{"c": "x"}], "strings")],
)
def test_base64_that_is_none_is_named(instance: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        tensors_of({"instances": [instance]}, TEXT)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("BYTES", "BOOL")])
def test_rows_of_every_kind_of_number(datatype: str) -> None:
    (tensor,) = tensors_of({"instances": [[1, 2], [3, 4]]}, metadata(x=datatype))

    assert len(tensor.raw) == 4 * DATATYPES[datatype].size_bytes


def test_single_precision_keeps_its_shortest_form() -> None:
    outputs = {"y": Tensor("y", "FP32", np.array([[0.1], [1e-7]], np.float32))}

    assert json_bytes(predictions_of(outputs, 2)) == b"[[0.1],[1e-7]]"


def test_non_finite_predictions_are_named_where_that_is_allowed() -> None:
    one = tensors(y=[[0.5], [float("nan")]])
    two = tensors(y=[0.5, float("inf")], z=[[1.0], [-float("inf")]])

    assert json_bytes(predictions_of(one, 2, non_finite=True)) == b"[[0.5],[NaN]]"
    assert json_bytes(predictions_of(two, 2, non_finite=True)) == (
        b'[{"y":0.5,"z":[1.0]},{"y":Infinity,"z":[-Infinity]}]'
    )
    assert as_json(predictions_of(two, 2)) == [{"y": 0.5, "z": [1.0]}, {"y": None, "z": [None]}]
