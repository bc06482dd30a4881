"""What is called equal, and how far apart what is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.comparison import compare_tensors, compare_texts
from mesh.errors import Internal
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, encode_response
from mesh.v1 import language_model_pb2 as lm

FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=20)


def answer(**outputs: tuple[str, Any]) -> bytes:
    response = oip.ModelInferResponse(model_name="iris")
    tensors = [Tensor(name, datatype, np.asarray(values)) for name, (datatype, values) in outputs.items()]
    encode_response(response, tensors, raw=True)
    return response.SerializeToString()


def said(
    *parts: tuple[str, list[int]], index: int = 0, finish: lm.FinishReason.ValueType = lm.FINISH_REASON_STOP
) -> list[bytes]:
    messages = [lm.GenerateResponse(text=text, token_ids=tokens, index=index) for text, tokens in parts]
    messages.append(lm.GenerateResponse(finish_reason=finish, index=index))
    return [message.SerializeToString() for message in messages]


@given(values=FLOATS)
def test_an_answer_is_equal_to_itself(values: list[float]) -> None:
    one = answer(scores=("FP32", np.array(values, dtype=np.float32)))

    comparison = compare_tensors(one, one)

    assert comparison.is_equal
    assert comparison.outputs == [{"name": "scores", "is_equal": True, "share_equal": 1.0, "max_abs_difference": 0.0}]


@given(pairs=st.lists(st.tuples(st.floats(width=32), st.floats(width=32)), min_size=1, max_size=20))
def test_differences_are_those_of_a_loop(pairs: list[tuple[float, float]]) -> None:
    first, second = (np.array(column, dtype=np.float32) for column in zip(*pairs, strict=True))
    equal = [one == other or (math.isnan(one) and math.isnan(other)) for one, other in pairs]
    differences = [abs(one - other) for one, other in pairs if math.isfinite(one) and math.isfinite(other)]

    comparison = compare_tensors(answer(y=("FP32", first)), answer(y=("FP32", second)))

    assert comparison.is_equal == all(equal)
    [output] = comparison.outputs
    assert output["share_equal"] == pytest.approx(sum(equal) / len(equal))
    assert output["max_abs_difference"] == max(differences, default=0.0)


@pytest.mark.parametrize(
    ("datatype", "first", "second", "share", "difference"),
    [
        ("INT64", np.array([1, 2, 3]), np.array([1, 2, 9]), 2 / 3, 6.0),
        ("UINT8", np.array([0, 255], np.uint8), np.array([255, 255], np.uint8), 0.5, 255.0),
        ("BOOL", np.array([True, False]), np.array([True, True]), 0.5, 1.0),
        ("BYTES", np.array([b"a", b"b"], object), np.array([b"a", b"c"], object), 0.5, None),
        ("FP32", np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), 1.0, 0.0),
    ],
)
def test_every_kind_of_value(datatype: str, first: Any, second: Any, share: float, difference: float | None) -> None:
    comparison = compare_tensors(answer(y=(datatype, first)), answer(y=(datatype, second)))

    [output] = comparison.outputs
    assert (output["share_equal"], output["max_abs_difference"]) == (pytest.approx(share), difference)
    assert comparison.is_equal == (share == 1.0)


def test_other_shape_datatype_or_outputs_are_told_as_such() -> None:
    first = answer(a=("FP32", np.zeros((1, 2), np.float32)), b=("INT64", np.array([1])), gone=("INT64", np.array([1])))
    second = answer(a=("FP32", np.zeros(2, np.float32)), b=("FP64", np.array([1.0])), new=("INT64", np.array([1])))

    comparison = compare_tensors(first, second)

    assert not comparison.is_equal
    shown = {output["name"]: (output["first"], output["second"]) for output in comparison.outputs}
    assert shown == {
        "a": ({"datatype": "FP32", "shape": [1, 2]}, {"datatype": "FP32", "shape": [2]}),
        "b": ({"datatype": "INT64", "shape": [1]}, {"datatype": "FP64", "shape": [1]}),
        "gone": ({"datatype": "INT64", "shape": [1]}, None),
        "new": (None, {"datatype": "INT64", "shape": [1]}),
    }


@pytest.mark.parametrize(
    ("second", "place"),
    [
        (said(("Hello", [1, 2]), ("!", [3])), None),
        (said(("Hel", [1]), ("lo!", [2, 3])), None),
        (said(("Hallo!", [1, 7, 3])), 1),
        (said(("Hello", [1, 2])), 2),
        (said(("Hello!?", [1, 2, 3, 4])), 3),
        ([], 0),
    ],
)
def test_texts_differ_from_a_token_on(second: list[bytes], place: int | None) -> None:
    comparison = compare_texts(said(("Hello", [1, 2]), ("!", [3])), second)

    assert comparison.is_equal == (place is None)
    assert comparison.outputs[0]["first_difference"] == place


def test_text_that_ended_otherwise_is_another() -> None:
    comparison = compare_texts(said(("a", [1])), said(("a", [1]), finish=lm.FINISH_REASON_LENGTH))

    assert not comparison.is_equal
    assert comparison.outputs[0]["finish_reasons"] == ["stop", "length"]


def test_outputs_are_compared_by_their_number() -> None:
    first = said(("a", [1])) + said(("b", [2]), index=1)
    second = said(("b", [2]), index=1) + said(("a", [9]))

    outputs = compare_texts(first, second).outputs

    assert [(one["index"], one["is_equal"]) for one in outputs] == [(0, False), (1, True)]


@pytest.mark.parametrize("content", [b"\xff\xff", b"\x2a\x03abc"])
def test_garbage_is_an_error(content: bytes) -> None:
    with pytest.raises(Internal, match="is no ModelInferResponse"):
        compare_tensors(answer(), content)
    with pytest.raises(Internal, match="is no GenerateResponse"):
        compare_texts([], [b"\xff\xff"])
