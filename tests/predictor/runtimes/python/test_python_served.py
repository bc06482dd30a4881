"""Python classes behind the real predictor: answers, errors, streams and health as a client sees them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import grpc.aio
import numpy as np
import pytest

from examples import standard_scaler
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import Tensor, decode_response, encode_request
from tests.predictor.running import eventually, running_predictor
from tests.predictor.runtimes.python.models import COUNTDOWN, UNRULY, folder_with


def request(model: str, **arrays: tuple[str, object]) -> oip.ModelInferRequest:
    message = oip.ModelInferRequest(model_name=model)
    encode_request(message, [Tensor(name, kind, np.asarray(array)) for name, (kind, array) in arrays.items()])
    return message


def order(text: str) -> oip.ModelInferRequest:
    """Of UNRULY."""
    return request("unruly", word=("BYTES", np.array([text.encode()], dtype=object)))


def deployments_of(folder: Path, **models: Path) -> Path:
    path = folder / "deployments.yaml"
    path.write_text(
        json.dumps(
            {
                "deployments": [
                    {
                        "name": name,
                        "predictor": {"model_format": "python", "storage_uri": model.as_uri(), "options": {}},
                    }
                    for name, model in models.items()
                ]
            }
        )
    )
    return path


async def test_classes_are_served(tmp_path: Path) -> None:
    standard_scaler.write(tmp_path / "scaler")
    deployments = deployments_of(
        tmp_path,
        scaler=tmp_path / "scaler",
        countdown=folder_with(tmp_path / "countdown", COUNTDOWN),
        unruly=folder_with(tmp_path / "unruly", UNRULY),
    )
    flags = ("--deployments", str(deployments), "--trust-model-code")
    async with running_predictor(tmp_path, *flags) as predictor:
        for model in ("scaler", "countdown", "unruly"):
            await predictor.until_ready(model)
        async with predictor.channel() as channel:
            stub = GRPCInferenceServiceStub(channel)

            rows = np.ones((2, 3), np.float32)
            answer = decode_response(await stub.ModelInfer(request("scaler", rows=("FP32", rows))))
            alone = standard_scaler.StandardScaler()
            alone.load(str(tmp_path / "scaler"))
            np.testing.assert_array_equal(answer["scaled"].array, alone.infer({"rows": rows})["scaled"])

            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await stub.ModelInfer(request("scaler", rows=("FP32", rows * np.inf)))
            assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert refusal.value.details() == "rows must be finite numbers"

            answers = stub.ModelStreamInfer(iter([request("countdown", n=("INT64", np.array([3])))]))
            left = [decode_response(message.infer_response)["left"].array[0] async for message in answers]
            assert left == [2, 1, 0]

            with pytest.raises(grpc.aio.AioRpcError) as crash:
                await stub.ModelInfer(order("leave 3"))
            assert crash.value.code() == grpc.StatusCode.INTERNAL
            assert "model 'unruly' ended with exit status 3" in str(crash.value.details())
            await predictor.until_ready("unruly")

            pid = int(decode_response(await stub.ModelInfer(order("pid")))["said"].array[0])
            hanging = stub.ModelInfer(order("hang"))
            predictor.process.kill()
            with pytest.raises(grpc.aio.AioRpcError):
                await hanging

    async def is_gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    await eventually(is_gone, 30, "the model's process ended with the predictor")


async def test_a_predictor_that_trusts_nobody_says_so_in_its_index(tmp_path: Path) -> None:
    deployments = deployments_of(tmp_path, m=folder_with(tmp_path / "m", UNRULY))
    async with running_predictor(tmp_path, "--deployments", str(deployments)) as predictor:
        async with predictor.channel() as channel:
            stub = GRPCInferenceServiceStub(channel)

            async def is_ready() -> bool:
                return (await stub.ServerReady(oip.ServerReadyRequest())).ready

            await eventually(is_ready, 30, "every model was tried")
            (model,) = (await stub.RepositoryIndex(oip.RepositoryIndexRequest())).models

    assert model.state == "UNAVAILABLE"
    assert "sets trust_model_code" in model.reason
