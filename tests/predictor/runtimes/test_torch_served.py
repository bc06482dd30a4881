"""An exported program behind the real predictor: datatypes, batch and errors as a client sees them."""

from __future__ import annotations

import json
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
import torch
from torch.export import Dim

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import Tensor, decode_response, encode_request
from tests.predictor.running import running_predictor
from tests.predictor.runtimes.torch_models import export


class Mixed(torch.nn.Module):
    """BF16 in and out, beside FP32 and BOOL."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"product": x * y.to(torch.bfloat16), "sum": y.sum(-1), "is_large": y > 1}


def request(x: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> oip.ModelInferRequest:
    message = oip.ModelInferRequest(model_name="mixed")
    encode_request(message, [Tensor("x", "BF16", x), Tensor("y", "FP32", x + 1)])
    return message


async def test_a_program_is_served(tmp_path: Path) -> None:
    batch = Dim("batch", max=8)
    inputs = (torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(2, 3))
    path = export(tmp_path / "model.pt2", Mixed(), inputs, {"x": {0: batch}, "y": {0: batch}})
    predictor_of_mixed = {"model_format": "torch", "storage_uri": path.as_uri()}
    (tmp_path / "deployments.yaml").write_text(
        json.dumps({"deployments": [{"name": "mixed", "predictor": predictor_of_mixed}]})
    )
    x = np.array([[0.5, 1.0, -2.0]], np.float32)

    async with running_predictor(tmp_path, "--deployments", str(tmp_path / "deployments.yaml")) as predictor:
        await predictor.until_ready("mixed")
        async with predictor.channel() as channel:
            stub = GRPCInferenceServiceStub(channel)
            config = (await stub.ModelConfig(oip.ModelConfigRequest(name="mixed"))).config
            answer = decode_response(await stub.ModelInfer(request(x)))
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.ModelInfer(request(np.zeros((9, 3), np.float32)))

    assert config.max_batch_size == 8
    assert {name: tensor.datatype for name, tensor in answer.items()} == {
        "product": "BF16",
        "sum": "FP32",
        "is_large": "BOOL",
    }
    np.testing.assert_array_equal(answer["product"].array.astype(np.float32), x * (x + 1))
    np.testing.assert_array_equal(answer["is_large"].array, x + 1 > 1)
    assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
