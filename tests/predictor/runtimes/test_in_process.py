"""What all runtimes that compute in this process have in common."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from mesh.errors import InvalidInput, Overloaded
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, Runtime, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.in_process import ComputeOptions, InProcessRuntime, OpenModel, as_bytes, blank
from tests.predictor.runtimes.trained import loaded


class Lengths:
    """Implements OpenModel: the length of each text. Refuses an empty one; waits for `go` when there is one."""

    def __init__(self, max_batch_size: int, go: threading.Event | None = None) -> None:
        self.memory_bytes = 7
        self.threads: set[str] = set()
        self._go = go
        self.metadata = ModelMetadata(
            platform="test",
            backend="test",
            inputs=(TensorSpec("text", "BYTES", (-1, 1)),),
            outputs=(TensorSpec("length", "INT64", (-1, 1)), TensorSpec("extra", "FP16", (-1, 2, -1))),
            max_batch_size=max_batch_size,
        )

    def predict(self, inputs: Arrays) -> Arrays:
        self.threads.add(threading.current_thread().name)
        texts = inputs["text"]
        if self._go is not None:
            assert self._go.wait(60)
        if any(not text for text in texts.reshape(-1)):
            raise InvalidInput("a text is empty")
        return {"length": np.array([[len(text)] for text in texts[:, 0]]), "extra": np.zeros((len(texts), 2, 3), "f2")}


class LengthsRuntime(InProcessRuntime):
    """Serves the model that it is given."""

    def __init__(self, model: Lengths) -> None:
        super().__init__()
        self._given = model

    async def _open(self, artifact: ModelArtifact, options: ComputeOptions, pool: ComputePool) -> OpenModel:
        return await pool.run(lambda: self._given)


def texts(*words: bytes) -> Arrays:
    return {"text": as_bytes(words).reshape(-1, 1)}


async def test_it_computes_in_a_thread_of_its_own() -> None:
    model = Lengths(8)
    runtime = await loaded(LengthsRuntime(model), Path("/nowhere"))

    answer = await runtime.infer(texts(b"one", b"seven"))

    assert isinstance(runtime, Runtime)
    assert answer["length"].tolist() == [[3], [5]]
    assert model.threads == {"model 'model'_0"}
    assert runtime.memory_bytes == 7


async def test_a_model_that_takes_no_blank_row_is_ready_all_the_same() -> None:
    runtime = await loaded(LengthsRuntime(Lengths(8)), Path("/nowhere"))

    with pytest.raises(InvalidInput, match="a text is empty"):
        await runtime.infer(texts(b""))


async def test_a_batch_of_nothing_is_answered_without_the_model() -> None:
    model = Lengths(8)
    runtime = LengthsRuntime(model)
    await runtime.load(ModelArtifact("m", "1", Path("/nowhere"), ""), lambda *_: None, lambda *_: None)

    answer = await runtime.infer({"text": np.empty((0, 1), dtype=object)})

    assert (answer["length"].shape, answer["length"].dtype) == ((0, 1), np.int64)
    assert (answer["extra"].shape, answer["extra"].dtype) == ((0, 2, 0), np.float16)
    assert model.threads == set()


async def test_without_a_batch_dimension_nothing_is_an_input_as_any_other() -> None:
    model = Lengths(0)
    runtime = await loaded(LengthsRuntime(model), Path("/nowhere"))

    assert (await runtime.infer({"text": np.empty((0, 1), dtype=object)}))["extra"].shape == (0, 2, 3)


async def test_more_than_it_takes_is_refused_at_once() -> None:
    go = threading.Event()
    runtime = LengthsRuntime(Lengths(8, go))
    artifact = ModelArtifact("m", "1", Path("/nowhere"), "", {"max_pending": "1"})
    await runtime.load(artifact, lambda *_: None, lambda *_: None)

    first = asyncio.create_task(runtime.infer(texts(b"a")))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded, match="model 'm' has 1 calls waiting"):
        await runtime.infer(texts(b"b"))
    go.set()
    assert (await first)["length"].tolist() == [[1]]


@pytest.mark.parametrize(("name", "value"), [("max_batch_size", 0), ("num_threads", 65), ("max_pending", 0)])
def test_an_option_out_of_range_is_named(name: str, value: int) -> None:
    with pytest.raises(InvalidInput, match=f"option '{name}' is {value}; it must be 1 to"):
        ComputeOptions(**{name: value})


def test_a_blank_row_has_every_datatype() -> None:
    assert blank(TensorSpec("x", "BYTES", (-1, 2))).tolist() == [[b"", b""]]
    assert blank(TensorSpec("x", "BF16", (-1,))).dtype == np.float32
    assert blank(TensorSpec("x", "BOOL", ())).tolist() is False
