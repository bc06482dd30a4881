"""Does a request fit the model: every row of the outcomes table that speaks of the model's inputs and outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mesh.errors import InvalidInput
from mesh.tensors import Tensor
from predictor.runtimes.base import ModelMetadata, TensorSpec
from predictor.signature import Signature

BATCHED = ModelMetadata(
    platform="p",
    backend="b",
    inputs=(TensorSpec("x", "FP32", (-1, 4)), TensorSpec("weight", "FP32", (-1,), optional=True)),
    outputs=(TensorSpec("label", "INT64", (-1,)), TensorSpec("score", "FP64", (-1, 3))),
    max_batch_size=8,
)
FIXED = ModelMetadata(
    platform="p", backend="b", inputs=(TensorSpec("text", "BYTES", (1,)),), outputs=(TensorSpec("out", "BYTES", (1,)),)
)
SEQUENCES = replace(BATCHED, inputs=(TensorSpec("ids", "INT64", (-1, -1)),))


def tensor(name: str, shape: tuple[int, ...], datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, np.zeros(shape, np.float32))


def tensors(*given: Tensor) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in given}


def test_what_fits_comes_back_as_arrays() -> None:
    arrays = Signature(BATCHED).check_inputs(tensors(tensor("x", (8, 4)), tensor("weight", (8,))))

    assert arrays["x"].shape == (8, 4)
    assert Signature(BATCHED).num_rows(arrays) == 8


def test_a_batch_of_nothing_fits_where_the_first_dimension_is_free() -> None:
    assert Signature(BATCHED).check_inputs(tensors(tensor("x", (0, 4))))["x"].shape == (0, 4)


def test_a_model_without_batches_counts_one() -> None:
    assert Signature(FIXED).num_rows(Signature(FIXED).check_inputs(tensors(tensor("text", (1,), "BYTES")))) == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "input 'x' is missing"),
        ([tensor("weight", (1,))], "input 'x' is missing"),
        ([tensor("x", (1, 4)), tensor("y", (1,))], "has no input 'y'; it has 'x', 'weight'"),
        ([tensor("x", (1, 4), "FP64")], "'x' has datatype FP64; the model takes FP32"),
        ([tensor("x", (4,))], r"'x' has shape \[4\]; the model takes \[-1, 4\]"),
        ([tensor("x", (1, 5))], r"'x' has shape \[1, 5\]"),
        ([tensor("x", (1, 4, 1))], r"'x' has shape \[1, 4, 1\]"),
        ([tensor("x", (9, 4))], "'x' has a batch of 9; the model takes at most 8"),
        ([tensor("x", (2, 4)), tensor("weight", (3,))], "batches of different sizes"),
    ],
)
def test_what_does_not_fit_is_named(given: list[Tensor], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        Signature(BATCHED).check_inputs(tensors(*given))


def test_a_batch_of_nothing_does_not_fit_a_fixed_dimension() -> None:
    with pytest.raises(InvalidInput, match=r"'text' has shape \[0\]; the model takes \[1\]"):
        Signature(FIXED).check_inputs(tensors(tensor("text", (0,), "BYTES")))


def test_outputs_come_in_the_order_asked_for_and_all_when_none_is_named() -> None:
    assert [spec.name for spec in Signature(BATCHED).wanted_outputs([])] == ["label", "score"]
    assert [spec.name for spec in Signature(BATCHED).wanted_outputs(["score", "label", "score"])] == ["score", "label"]


def test_an_unknown_output_is_named() -> None:
    with pytest.raises(InvalidInput, match="has no output 'logits'; it has 'label', 'score'"):
        Signature(BATCHED).wanted_outputs(["logits"])


def test_no_inputs_at_all_is_refused_even_where_each_is_optional() -> None:
    optional = replace(BATCHED, inputs=(TensorSpec("weight", "FP32", (-1,), optional=True),))

    with pytest.raises(InvalidInput, match="the request has no inputs; the model has 'weight'"):
        Signature(optional).check_inputs({})


def test_a_model_without_inputs_takes_a_request_without_them() -> None:
    assert Signature(replace(FIXED, inputs=())).check_inputs({}) == {}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (BATCHED, True),
        (FIXED, False),
        (replace(BATCHED, max_batch_size=1), False),
        (replace(BATCHED, inputs=(TensorSpec("x", "FP32", (2, 4)),)), False),
        (replace(BATCHED, outputs=(TensorSpec("mean", "FP32", (4,)),)), False),
    ],
)
def test_only_a_model_whose_first_dimensions_are_free_has_rows(metadata: ModelMetadata, expected: bool) -> None:
    assert Signature(metadata).has_rows is expected


def test_requests_join_when_names_and_trailing_shapes_are_the_same() -> None:
    def key(metadata: ModelMetadata, **shapes: tuple[int, ...]) -> object:
        return Signature(metadata).joins_with({name: np.zeros(shape) for name, shape in shapes.items()})

    assert key(BATCHED, x=(1, 4)) == key(BATCHED, x=(3, 4))
    assert key(BATCHED, x=(1, 4), weight=(1,)) == key(BATCHED, weight=(2,), x=(2, 4))
    assert key(BATCHED, x=(1, 4)) != key(BATCHED, x=(1, 4), weight=(1,))
    assert key(SEQUENCES, ids=(1, 7)) == key(SEQUENCES, ids=(2, 7)) != key(SEQUENCES, ids=(1, 8))
