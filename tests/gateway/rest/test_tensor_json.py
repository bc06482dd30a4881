"""JSON tensors: every datatype both ways, exact, and each wrong one named."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest.bodies import json_bytes
from gateway.rest.tensor_json import (
    parameters_from_json,
    parameters_to_json,
    raw_from_json,
    tensor_from_json,
    tensor_to_json,
)
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import DATATYPES, Tensor, decode_response

# What a JSON parser gives for one element.
ANY_SCALAR = st.one_of(
    st.booleans(),
    st.none(),
    st.text(max_size=3),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([65519.0, 65520.0, 3.3961775e38, 3.3961776e38, 3.4028235e38, 3.4028236e38, 255, 256, -128, -129]),
)


def entry(datatype: str, data: Any, shape: Any = None) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": [len(data)] if shape is None else shape, "data": data}


def decoded(datatype: str, data: Any, shape: Any = None) -> Tensor:
    """JSON → raw → protobuf → tensor."""
    raw = tensor_from_json(entry(datatype, data, shape), 0)
    response = oip.ModelInferResponse(raw_output_contents=[bytes(raw.raw)])
    response.outputs.add(name=raw.name, datatype=raw.datatype, shape=raw.shape)
    return decode_response(response)["x"]


def through_the_wire(datatype: str, data: Any, shape: Any = None) -> Any:
    """JSON → raw → protobuf → tensor → JSON."""
    written = tensor_to_json(decoded(datatype, data, shape))
    return orjson.loads(orjson.dumps(written, option=orjson.OPT_SERIALIZE_NUMPY))["data"]


INTEGERS = {
    "INT8": (-(2**7), 2**7 - 1),
    "INT16": (-(2**15), 2**15 - 1),
    "INT32": (-(2**31), 2**31 - 1),
    "INT64": (-(2**63), 2**63 - 1),
    "UINT8": (0, 2**8 - 1),
    "UINT16": (0, 2**16 - 1),
    "UINT32": (0, 2**32 - 1),
    "UINT64": (0, 2**64 - 1),
}


@pytest.mark.parametrize(("datatype", "limits"), INTEGERS.items())
def test_integers_are_exact_and_keep_their_range(datatype: str, limits: tuple[int, int]) -> None:
    low, high = limits

    assert through_the_wire(datatype, [low, high, 1]) == [low, high, 1]
    for outside in (low - 1, high + 1):
        with pytest.raises(InvalidInput):
            tensor_from_json(orjson.loads(orjson.dumps(entry(datatype, [0])).replace(b"[0]", b"[%d]" % outside)), 0)


@pytest.mark.parametrize(
    ("datatype", "data", "expected"),
    [
        ("BOOL", [True, False], [True, False]),
        ("FP64", [0.1, -1e300, 3], [0.1, -1e300, 3.0]),
        ("FP32", [0.1, 16777217], [0.1, 16777216.0]),
        ("FP16", [0.5, 65504], [0.5, 65504.0]),
        ("BF16", [1.0, 3.140625], [1.0, 3.140625]),
        ("BYTES", ["", "größe", "a\u0000b"], ["", "größe", "a\u0000b"]),
    ],
)
def test_other_datatypes_come_back(datatype: str, data: list[Any], expected: list[Any]) -> None:
    assert through_the_wire(datatype, data) == expected


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_doubles_come_back_to_the_bit(values: list[float]) -> None:
    assert through_the_wire("FP64", values) == values


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_nested_and_flat_data_mean_the_same(rows: int, columns: int, depth: int) -> None:
    array = np.arange(rows * columns * depth).reshape(rows, columns, depth)

    nested = decoded("INT64", array.tolist(), list(array.shape)).array
    flat = decoded("INT64", array.ravel().tolist(), list(array.shape)).array

    assert np.array_equal(nested, array)
    assert np.array_equal(flat, array)


def test_empty_batch_is_allowed() -> None:
    assert decoded("FP32", [], [0, 4]).array.shape == (0, 4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("tensor", "must be an object"),
        ({"datatype": "FP32", "shape": [1], "data": [1]}, "lacks 'name'"),
        ({"name": 7, "datatype": "FP32", "shape": [1], "data": [1]}, "name must be a string"),
        (entry("FP32", [1.0]) | {"data": "1"}, "data must be a list"),
        (entry("fp32", [1.0]), "valid are BOOL"),
        (entry("FP32", [1.0], [2]), "takes 2 elements; got 1"),
        (entry("FP32", [1.0], [-1]), "dimension '-1'"),
        (entry("FP32", [1.0], [1.0]), "dimension"),
        (entry("FP32", [1.0], [True]), "dimension"),
        (entry("FP32", [1.0], [2**62, 16]), "2^63-1 bytes"),
        (entry("FP32", [], [2**70, 0]), "dimension"),
        (entry("FP32", [1.0], [1] * 40), "at most 32"),
        (entry("FP32", [[1.0, 2.0], [3.0]], [2, 2]), "ragged"),
        (entry("FP32", [[1.0], 2.0], [2]), "ragged"),
        (entry("FP32", [[1.0, 2.0], [3.0, 4.0]], [4, 1]), "nested as [2, 2]"),
        (entry("FP32", ["1.0"]), "takes numbers; got str"),
        (entry("FP32", [None]), "got null"),
        (entry("FP32", [True]), "got bool"),
        (entry("INT32", [1.0]), "takes whole numbers; got float"),
        (entry("INT32", [True]), "got bool"),
        (entry("BOOL", [1]), "true or false"),
        (entry("BYTES", [1]), "takes strings"),
        (entry("FP32", [1e300]), "cannot hold"),
        (entry("FP16", [70000]), "cannot hold"),
        (entry("BF16", [3.4e38]), "cannot hold"),
        (entry("UINT8", [256]), "cannot hold"),
        (entry("INT64", [{"a": 1}]), "got dict"),
    ],
)
def test_wrong_tensor_is_named(wrong: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        tensor_from_json(wrong, 0)

    assert says in raised.value.message


def test_depth_of_nesting_is_bounded() -> None:
    data: list[Any] = [1.0]
    for _ in range(500):
        data = [data]

    with pytest.raises(InvalidInput, match="nested deeper"):
        tensor_from_json(entry("FP32", data, [1]), 0)


def test_non_finite_outputs_are_null_and_say_so() -> None:
    written = tensor_to_json(Tensor("x", "FP32", np.array([1.5, np.nan, -np.inf], dtype=np.float32)))

    assert json_bytes(written["data"]) == b"[1.5,null,null]"
    assert written["parameters"] == {"non_finite_as_null": True}


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64", "BF16"])
def test_non_finite_outputs_are_named_where_that_is_allowed(datatype: str) -> None:
    array = np.array([np.nan, 0.5, -np.inf, np.inf], dtype=DATATYPES[datatype].dtype)

    written = tensor_to_json(Tensor("x", datatype, array), non_finite=True)

    assert json_bytes(written["data"]) == b"[NaN,0.5,-Infinity,Infinity]"
    assert "parameters" not in written


@given(hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_what_python_reads_of_non_finite_outputs_is_what_they_were(array: Any) -> None:
    text = json_bytes(tensor_to_json(Tensor("x", "FP32", array), non_finite=True)["data"])

    assert np.array_equal(np.array(json.loads(text), dtype=np.float32), array, equal_nan=True)


@given(st.sampled_from(sorted(set(DATATYPES) - {"BYTES"})), st.lists(ANY_SCALAR, min_size=1, max_size=6))
def test_packing_agrees_with_a_check_of_each_element(datatype: str, values: list[Any]) -> None:
    """The slow, obvious reference: each element by itself, by the limits of its datatype."""
    may_hold_booleans = any(isinstance(value, bool) for value in values)
    try:
        raw = raw_from_json(values, DATATYPES[datatype], [len(values)], "x", may_hold_booleans=may_hold_booleans)
    except InvalidInput:
        assert not all(fits(value, datatype) for value in values)
        return
    assert all(fits(value, datatype) for value in values)
    assert len(raw) == len(values) * DATATYPES[datatype].size_bytes


def fits(value: Any, datatype: str) -> bool:
    if datatype == "BOOL":
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if datatype in INTEGERS:
        return isinstance(value, int) and INTEGERS[datatype][0] <= value <= INTEGERS[datatype][1]
    if datatype == "BF16":
        return abs(value) < (1 + 255 / 256) * 2.0**127
    with np.errstate(over="ignore"):
        return bool(np.isfinite(DATATYPES[datatype].dtype.type(value)))


def test_bytes_that_are_no_text_are_base64_and_say_so() -> None:
    array = np.empty(1, dtype=object)
    array[0] = b"\xff\xfe"

    written = tensor_to_json(Tensor("x", "BYTES", array))

    assert (written["data"], written["parameters"]) == (["//4="], {"content_type": "base64"})


def test_parameters_keep_their_types() -> None:
    request = oip.ModelInferRequest()
    given_parameters = {"a": True, "b": -3, "c": 2**64 - 1, "d": 0.5, "e": "text"}

    parameters_from_json(request.parameters, given_parameters, "parameters")

    assert parameters_to_json(request.parameters) == given_parameters


@pytest.mark.parametrize("wrong", [[1], "x", {"a": None}, {"a": [1]}, {"a": {}}])
def test_wrong_parameters_are_named(wrong: Any) -> None:
    with pytest.raises(InvalidInput, match="parameters"):
        parameters_from_json(oip.ModelInferRequest().parameters, wrong, "parameters")
