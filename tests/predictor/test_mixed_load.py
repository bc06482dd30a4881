"""A thousand requests at once through the real server: several models and shapes, some bad, some cancelled.

Every answer that comes has its own id and exactly the numbers of its own request; only the bad ones fail.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import pytest

from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import Tensor, decode_response, encode_request
from mesh.testing import eventually, serve_in_process
from predictor.loader import ModelLoader, ModelSpec
from predictor.repository import ModelRepository
from predictor.runtimes import RUNTIMES
from predictor.runtimes.base import Arrays, ModelMetadata, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.servicer import OpenInferenceServicer, add_open_inference_to_server
from tests.predictor.fake_runtime import FakeLoader, IdentityRuntime, spec

NUM_REQUESTS = 1000
MAX_ROWS = 16
BAD = -1.0


class ScaleRuntime(IdentityRuntime):
    """y = scale · x, row by row, in a thread; a row with BAD in it is refused, with all that ran beside it.

    Nothing is computed before `go`, so that requests gather.
    """

    scale = 2.0
    metadata = ModelMetadata(  # type: ignore[assignment]
        platform="test_scale",
        backend="scale",
        inputs=(TensorSpec("x", "FP64", (-1, -1)), TensorSpec("names", "BYTES", (-1,), optional=True)),
        outputs=(TensorSpec("y", "FP64", (-1, -1)), TensorSpec("labels", "BYTES", (-1,))),
        max_batch_size=MAX_ROWS,
    )

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []
        self.go = asyncio.Event()
        self._pool = ComputePool("scale", num_threads=1, max_pending=NUM_REQUESTS)

    async def infer(self, inputs: Arrays) -> Arrays:
        await self.go.wait()
        return await self._pool.run(lambda: self._compute(inputs))

    def _compute(self, inputs: Arrays) -> Arrays:
        x = inputs["x"]
        self.rows.append(len(x))
        if (x == BAD).any():
            raise InvalidInput("a bad row", field="x")
        names = inputs.get("names", np.array([b""] * len(x), dtype=object))
        return {"y": self.scale * x, "labels": np.array([b"<" + name + b">" for name in names], dtype=object)}


class NegateRuntime(ScaleRuntime):
    scale = -1.0


@dataclass(frozen=True)
class Request:
    """One request, and what it should get."""

    number: int
    model: str
    rows: int
    columns: int
    has_names: bool
    is_bad: bool
    is_cancelled: bool
    is_raw: bool

    @property
    def x(self) -> np.ndarray[Any, Any]:
        x = self.number + np.arange(self.rows * self.columns, dtype=np.float64).reshape(self.rows, self.columns) / 1000
        if self.is_bad:
            x[-1, -1] = BAD
        return x

    @property
    def names(self) -> list[bytes]:
        return [f"{self.number}/{row}".encode() if self.has_names else b"" for row in range(self.rows)]

    def message(self) -> oip.ModelInferRequest:
        message = oip.ModelInferRequest(model_name=self.model, id=f"id {self.number}")
        tensors = [Tensor("x", "FP64", self.x)]
        if self.has_names:
            tensors.append(Tensor("names", "BYTES", np.array(self.names, dtype=object)))
        encode_request(message, tensors, raw=self.is_raw)
        return message

    def check(self, response: oip.ModelInferResponse) -> None:
        outputs = decode_response(response)
        assert response.id == f"id {self.number}"
        scale = {"scale": 2.0, "negate": -1.0}[self.model]
        np.testing.assert_array_equal(outputs["y"].array, scale * self.x)
        assert outputs["labels"].array.tolist() == [b"<" + name + b">" for name in self.names]
        assert bool(response.raw_output_contents) == self.is_raw


def mixed_requests(rng: random.Random) -> list[Request]:
    return [
        Request(
            number=number,
            model=rng.choice(["scale", "scale", "negate"]),
            rows=rng.choice([1, 1, 1, 2, 5, MAX_ROWS]),
            columns=rng.choice([2, 2, 3]),
            has_names=rng.random() < 0.3,
            is_bad=rng.random() < 0.05,
            is_cancelled=rng.random() < 0.1,
            is_raw=rng.random() < 0.7,
        )
        for number in range(NUM_REQUESTS)
    ]


async def serve(loader: FakeLoader) -> ModelRepository:
    async def on_change(*_: object) -> None:
        pass

    repository = ModelRepository([spec("scale", "scale"), spec("negate", "negate")], loader, on_change)
    await repository.load_all()
    return repository


@pytest.mark.parametrize("streams", [0, 4], ids=["calls", "streams"])
async def test_a_thousand_mixed_requests_are_answered_exactly(streams: int) -> None:
    requests = mixed_requests(random.Random(5))
    loader = FakeLoader(scale=ScaleRuntime, negate=NegateRuntime)
    repository = await serve(loader)
    servicer = OpenInferenceServicer(repository, "1")
    async with serve_in_process((add_open_inference_to_server, servicer)) as channel:
        stub = GRPCInferenceServiceStub(channel)
        models = repository.loaded()
        if streams:
            clients = [asyncio.create_task(ask_in_stream(stub, requests[index::streams])) for index in range(streams)]
        else:
            clients = [asyncio.create_task(ask(stub, request)) for request in requests]
        await eventually(lambda: all(model.batcher.num_waiting > MAX_ROWS for model in models), timeout_s=60)
        for runtime in loader.runtimes.values():
            assert isinstance(runtime, ScaleRuntime)
            runtime.go.set()
        await asyncio.gather(*clients)
        await eventually(lambda: all(m.batcher.num_running == m.batcher.num_waiting == 0 for m in models))

    for model in models:
        runtime = loader.runtimes[model.spec.name]
        assert isinstance(runtime, ScaleRuntime)
        statistics = model.statistics
        assert max(runtime.rows) <= MAX_ROWS
        assert statistics.execution_count < statistics.success.count, "requests were joined"
        assert statistics.inference_count >= statistics.execution_count


async def ask(stub: Any, request: Request) -> None:
    call = stub.ModelInfer(request.message())
    if request.is_cancelled:
        asyncio.get_running_loop().call_later(request.number % 50 / 1000, call.cancel)
    try:
        request.check(await call)
        assert not request.is_bad
    except grpc.aio.AioRpcError as error:
        assert request.is_bad
        assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "a bad row")
    except asyncio.CancelledError:
        assert request.is_cancelled


async def ask_in_stream(stub: Any, requests: list[Request]) -> None:
    answers = [answer async for answer in stub.ModelStreamInfer(request.message() for request in requests)]

    assert len(answers) == len(requests)
    for request, answer in zip(requests, answers, strict=True):
        assert answer.error_message == ("a bad row" if request.is_bad else "")
        if request.is_bad:
            assert answer.infer_response.id == f"id {request.number}"
        else:
            request.check(answer.infer_response)


async def test_a_real_model_s_bad_requests_fail_alone(iris_folder: Path, tmp_path: Path) -> None:
    async def on_change(*_: object) -> None:
        pass

    deployed = ModelSpec("iris", "sklearn", iris_folder.as_uri())
    repository = ModelRepository([deployed], ModelLoader(tmp_path, RUNTIMES), on_change)
    await repository.load_all()
    rows = np.random.default_rng(0).uniform(0, 8, (200, 4))
    runtime = repository.get("iris").runtime
    expected = await runtime.infer({"input": rows})
    rows[::10, 2] = np.nan

    async def outcome(row: np.ndarray[Any, Any]) -> dict[str, Tensor] | grpc.aio.AioRpcError:
        request = oip.ModelInferRequest(model_name="iris")
        encode_request(request, [Tensor("input", "FP64", row[None])])
        try:
            return decode_response(await stub.ModelInfer(request))
        except grpc.aio.AioRpcError as error:
            return error

    async with serve_in_process((add_open_inference_to_server, OpenInferenceServicer(repository, "1"))) as channel:
        stub = GRPCInferenceServiceStub(channel)
        outcomes = await asyncio.gather(*map(outcome, rows))
    statistics = repository.get("iris").statistics
    await repository.close()

    for index, got in enumerate(outcomes):
        if index % 10 == 0:
            assert isinstance(got, grpc.aio.AioRpcError)
            assert got.code() is grpc.StatusCode.INVALID_ARGUMENT
        else:
            assert isinstance(got, dict)
            assert got["label"].array[0] == expected["label"][index]
            np.testing.assert_allclose(got["probabilities"].array[0], expected["probabilities"][index], atol=1e-12)
    assert (statistics.success.count, statistics.fail.count, statistics.inference_count) == (180, 20, 180)
    assert statistics.execution_count <= 180
