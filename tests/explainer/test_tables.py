"""Explanations of predictions for rows, over real channels, from a predictor whose weights are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, encode_request
from mesh.v1 import explain_pb2

ROWS = np.array([[4.0, 1.0, 2.0, 0.0], [0.0, 3.0, 1.0, 2.0]])
# The rows' classes are 0 and 1; terms of those classes with a baseline of zeros.
TERMS = [[4.0, 0.0, 1.0, 0.0], [0.0, 3.0, -0.5, 0.5]]
Config = Callable[..., oip.ModelConfig]


def request(
    rows: np.ndarray = ROWS,
    datatype: str = "FP64",
    parameters: dict[str, oip.InferParameter] | None = None,
    method: str = "",
) -> explain_pb2.ExplainRequest:
    infer = oip.ModelInferRequest(parameters=parameters or {})
    encode_request(infer, [Tensor("input", datatype, rows)])
    return explain_pb2.ExplainRequest(model_name="table", infer=infer, method=method)


def contributions(response: explain_pb2.ExplainResponse) -> list[list[float]]:
    return [[entry.value for entry in explanation.attributions] for explanation in response.explanations]


async def failure(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_planted_weights_come_back_for_every_row_in_three_calls(rig: Any) -> None:
    response = await rig.stub.Explain(request())

    np.testing.assert_allclose(contributions(response), TERMS, rtol=0, atol=1e-9)
    assert [e.score for e in response.explanations] == pytest.approx([5.0, 3.0])
    assert [e.base_score for e in response.explanations] == pytest.approx([0.0, 0.0])
    assert [e.target for e in response.explanations] == ["10", "11"]
    assert [entry.name for entry in response.explanations[0].attributions] == [f"input[{i}]" for i in range(4)]
    assert (response.method, response.model_version) == ("shapley", "4")
    # Configuration, the rows as they are, and all 2^4 coalitions of both rows at once.
    assert [call.inputs[0].shape[0] for call in rig.predictor.infer_requests] == [2, 32]
    assert response.predictor_calls == 3


async def test_names_classes_and_baseline_come_from_the_models_configuration(rig: Any, table_config: Config) -> None:
    rig.predictor.config = table_config(
        feature_names=["a", "b", "c", "d"], feature_baseline=[1.0, 1.0, 1.0, 1.0], class_names=["cat", "dog"]
    )

    response = await rig.stub.Explain(request())

    np.testing.assert_allclose(contributions(response), [[3.0, 0, 0.5, 0], [0, 2.0, 0.0, 0.25]], atol=1e-9)
    assert [e.target for e in response.explanations] == ["cat", "dog"]
    assert [entry.name for entry in response.explanations[1].attributions] == ["a", "b", "c", "d"]
    assert [e.base_score for e in response.explanations] == pytest.approx([1.5, 0.75])


@pytest.mark.parametrize(
    "baseline",
    [
        oip.InferParameter(string_param="[2, 2, 2, 2.0]"),
        oip.InferParameter(double_param=2.0),
        oip.InferParameter(int64_param=2),
    ],
)
async def test_the_requests_baseline_wins(rig: Any, table_config: Config, baseline: oip.InferParameter) -> None:
    rig.predictor.config = table_config(feature_baseline=[1.0, 1.0, 1.0, 1.0])

    response = await rig.stub.Explain(request(parameters={"baseline": baseline}))

    np.testing.assert_allclose(contributions(response)[0], [2.0, 0, 0, 0], atol=1e-9)


async def test_a_value_is_explained_where_there_are_no_probabilities(rig: Any) -> None:
    rig.predictor.outputs = ("label", "value")

    response = await rig.stub.Explain(request())

    assert [e.target for e in response.explanations] == ["value", "value"]
    np.testing.assert_allclose(contributions(response), [[4, 0, 1, 0], [0, 0, 0.5, 0]], atol=1e-6)


async def test_the_models_batch_limit_holds(rig: Any, table_config: Config) -> None:
    rig.predictor.config = table_config(max_batch_size=10)

    response = await rig.stub.Explain(request())

    np.testing.assert_allclose(contributions(response), TERMS, rtol=0, atol=1e-9)
    assert [call.inputs[0].shape[0] for call in rig.predictor.infer_requests] == [2, 10, 10, 10, 2]


async def test_many_features_are_sampled_by_seed(rig: Any) -> None:
    parameters = {"num_samples": oip.InferParameter(int64_param=4), "seed": oip.InferParameter(uint64_param=9)}

    response = await rig.stub.Explain(request(parameters=parameters))

    np.testing.assert_allclose(contributions(response), TERMS, rtol=0, atol=1e-9)
    assert rig.predictor.infer_requests[-1].inputs[0].shape[0] <= 2 * (4 * 3 + 2)


async def test_leave_one_out_explains_tables_too(rig: Any) -> None:
    response = await rig.stub.Explain(request(method="leave_one_out"))

    np.testing.assert_allclose(contributions(response), TERMS, rtol=0, atol=1e-9)
    assert not response.explanations[0].HasField("base_score")


@pytest.mark.parametrize("datatype", ["FP16", "FP32", "FP64"])
async def test_rows_keep_their_datatype(rig: Any, datatype: str) -> None:
    response = await rig.stub.Explain(request(datatype=datatype))

    assert {call.inputs[0].datatype for call in rig.predictor.infer_requests} == {datatype}
    np.testing.assert_allclose(contributions(response), TERMS, atol=1e-3)


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (request(np.zeros((0, 4))), "has shape [0, 4]; an explanation takes [rows, features]"),
        (request(np.zeros((4, 0))), "has shape [4, 0]"),
        (request(np.zeros(4)), "has shape [4]"),
        (request(np.zeros((1, 513))), "513 features; an explanation takes at most 512"),
        (request(np.zeros((4097, 2))), "4097 rows; an explanation takes at most 4096"),
        (request(ROWS.astype(np.int64), "INT64"), "has datatype INT64; an explanation takes FP16, BF16, FP32, FP64"),
        (explain_pb2.ExplainRequest(model_name="table", infer=oip.ModelInferRequest()), "infer has 0 inputs"),
        (request(parameters={"baseline": oip.InferParameter(string_param="[1]")}), "JSON list of 4"),
        (request(parameters={"baseline": oip.InferParameter(string_param="nonsense")}), "parameter baseline must be"),
        (request(parameters={"baseline": oip.InferParameter(string_param='[1, 2, "x", 4]')}), "parameter baseline"),
        (request(parameters={"baseline": oip.InferParameter(string_param="[1,2,3,1e999]")}), "finite number"),
        (request(parameters={"baseline": oip.InferParameter(string_param="[1,2,3,1" + "0" * 400 + "]")}), "finite"),
        (request(parameters={"baseline": oip.InferParameter(string_param="[" * 5000)}), "parameter baseline"),
        (request(parameters={"baseline": oip.InferParameter(bool_param=True)}), "parameter baseline must be"),
        (request(parameters={"seed": oip.InferParameter(int64_param=-1)}), "parameter seed must be an integer of 0.."),
        (request(parameters={"seed": oip.InferParameter(string_param="1")}), "parameter seed must be an integer"),
        (request(parameters={"num_samples": oip.InferParameter(int64_param=65_537)}), "num_samples must be"),
        (request(parameters={"num_samples": oip.InferParameter(int64_param=60_000)}), "the limit is 32768"),
    ],
)
async def test_wrong_tables_are_named(rig: Any, bad: explain_pb2.ExplainRequest, sentence: str) -> None:
    error = await failure(rig.stub.Explain(bad))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in (error.details() or "")


@pytest.mark.parametrize(
    "parameters", [{"feature_baseline": "nonsense"}, {"feature_baseline": ["x"]}, {"class_names": "{}"}]
)
async def test_a_wrong_configuration_is_the_models_fault(
    rig: Any, table_config: Config, parameters: dict[str, object]
) -> None:
    rig.predictor.config = table_config(**parameters)

    error = await failure(rig.stub.Explain(request()))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "the configuration of model 'table' has" in (error.details() or "")


async def test_a_model_without_scores_cannot_be_explained(rig: Any) -> None:
    rig.predictor.outputs = ("label",)

    error = await failure(rig.stub.Explain(request()))

    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "no floating-point output" in (error.details() or "")


async def test_an_output_without_a_row_each_is_the_predictors_fault(rig: Any) -> None:
    rig.predictor.outputs = ("total",)

    error = await failure(rig.stub.Explain(request()))

    assert error.code() is grpc.StatusCode.INTERNAL
    assert "output 'total' of 'table' has not one row for each of 2 rows" in (error.details() or "")
