"""Does a request fit the model: every row of the outcomes table that speaks of the model's inputs and outputs."""

from __future__ import annotations

import numpy as np
import pytest

from mesh.errors import InvalidInput
from mesh.tensors import Tensor
from predictor.runtimes.base import ModelMetadata, TensorSpec
from predictor.signature import batch_size, check_inputs, wanted_outputs

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


def tensor(name: str, shape: tuple[int, ...], datatype: str = "FP32") -> Tensor:
    return Tensor(name, datatype, np.zeros(shape, np.float32))


def tensors(*given: Tensor) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in given}


def test_what_fits_comes_back_as_arrays() -> None:
    arrays = check_inputs(BATCHED, tensors(tensor("x", (8, 4)), tensor("weight", (8,))))

    assert arrays["x"].shape == (8, 4)
    assert batch_size(BATCHED, arrays) == 8


def test_a_batch_of_nothing_fits_where_the_first_dimension_is_free() -> None:
    assert check_inputs(BATCHED, tensors(tensor("x", (0, 4))))["x"].shape == (0, 4)


def test_a_model_without_batches_counts_one() -> None:
    assert batch_size(FIXED, check_inputs(FIXED, tensors(tensor("text", (1,), "BYTES")))) == 1


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
        check_inputs(BATCHED, tensors(*given))


def test_a_batch_of_nothing_does_not_fit_a_fixed_dimension() -> None:
    with pytest.raises(InvalidInput, match=r"'text' has shape \[0\]; the model takes \[1\]"):
        check_inputs(FIXED, tensors(tensor("text", (0,), "BYTES")))


def test_outputs_come_in_the_order_asked_for_and_all_when_none_is_named() -> None:
    assert [spec.name for spec in wanted_outputs(BATCHED, [])] == ["label", "score"]
    assert [spec.name for spec in wanted_outputs(BATCHED, ["score", "label", "score"])] == ["score", "label"]


def test_an_unknown_output_is_named() -> None:
    with pytest.raises(InvalidInput, match="has no output 'logits'; it has 'label', 'score'"):
        wanted_outputs(BATCHED, ["logits"])
