"""The same inference over gRPC, against a real server: tensors there and back."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest

from cli.failure import Failure
from cli.infer_grpc import GrpcModels
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from mesh.tensors import decode_request, encode_response
from mesh.testing import serve_on_free_port


class Echo(GRPCInferenceServiceServicer):
    """Answers with its inputs as outputs."""

    async def ModelMetadata(self, request: Any, context: Any) -> oip.ModelMetadataResponse:  # type: ignore[override]
        inputs = [oip.ModelMetadataResponse.TensorMetadata(name="input", datatype="FP64", shape=[-1, 4])]
        return oip.ModelMetadataResponse(name=request.name, inputs=inputs)

    async def ModelInfer(self, request: Any, context: Any) -> oip.ModelInferResponse:  # type: ignore[override]
        if request.model_name == "picky":
            raise InvalidInput("input 'input' has shape [1, 1]; the model takes [-1, 4]")
        response = oip.ModelInferResponse(model_name=request.model_name, model_version="1")
        encode_response(response, list(decode_request(request).values()), raw=True)
        return response


async def ask(model: str, tensors: list[dict[str, Any]]) -> Any:
    async with serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, Echo())) as address:

        def call() -> Any:
            with GrpcModels(address, timeout_s=10) as models:
                return models.infer(model, tensors)

        return await asyncio.to_thread(call)


async def test_numbers_and_texts_come_back_as_they_went() -> None:
    tensors = [
        {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [[1.5, 2], [3, 4]]},
        {"name": "n", "datatype": "INT64", "shape": [1], "data": [2**60]},
        {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["naïve"]},
    ]

    answer = await ask("echo", tensors)

    assert [output["data"] for output in answer["outputs"]] == [[1.5, 2.0, 3.0, 4.0], [2**60], ["naïve"]]
    assert answer["outputs"][0]["shape"] == [2, 2]


async def test_an_error_is_its_sentence() -> None:
    with pytest.raises(Failure, match=r"input 'input' has shape \[1, 1\]; the model takes \[-1, 4\]"):
        await ask("picky", [{"name": "input", "datatype": "FP64", "shape": [1, 1], "data": [[1]]}])


@pytest.mark.parametrize("data", [[[1, 2], [3]], [["a", "b"]]])
async def test_data_that_does_not_fit_is_a_sentence(data: Any) -> None:
    with pytest.raises(Failure, match="--data does not fit input 'input'; it takes FP64"):
        await ask("echo", [{"name": "input", "datatype": "FP64", "shape": [1, 2], "data": data}])


async def test_inputs_come_from_the_metadata() -> None:
    async with serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, Echo())) as address:

        def call() -> Any:
            with GrpcModels(address, timeout_s=10) as models:
                return models.inputs_of("iris")

        assert await asyncio.to_thread(call) == [{"name": "input", "datatype": "FP64"}]


def test_a_channel_is_made_by_the_synchronous_library() -> None:
    # The command has no event loop; an aio channel would need one.
    with GrpcModels("127.0.0.1:1", timeout_s=1) as models:
        assert not isinstance(models._channel, grpc.aio.Channel)
