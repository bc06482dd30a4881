"""What inference does to the event loop; what it answers is tested through the servicer."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import DATATYPES, Tensor, encode_request
from predictor.infer_wire import parsed
from predictor.inference import MANY_ELEMENTS, Inference
from predictor.repository import ModelRepository
from tests.predictor.fake_runtime import FakeLoader, spec


async def inference() -> Inference:
    async def on_change(*_: object) -> None:
        pass

    repository = ModelRepository([spec("identity")], FakeLoader(), on_change)
    await repository.load_all()
    return Inference(repository)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(("datatype", "is_slow"), [("BYTES", (True, True)), ("INT64", (False, True))])
async def test_many_elements_that_are_read_one_by_one_are_read_in_a_thread(
    datatype: str, is_slow: tuple[bool, bool], raw: bool
) -> None:
    array = np.full((MANY_ELEMENTS, 2), b"a" if datatype == "BYTES" else 1, dtype=DATATYPES[datatype].dtype)
    request = oip.ModelInferRequest(model_name="identity")
    encode_request(request, [Tensor(f"{datatype.lower()}_in", datatype, array)], raw=raw)
    task = asyncio.create_task((await inference()).infer(parsed(request)))

    await asyncio.sleep(0)

    # On the event loop, the first step reads it all, and refuses so large a batch.
    assert task.done() is not is_slow[0 if raw else 1]
    with pytest.raises(InvalidInput, match="the model takes at most 8"):
        await task


async def test_a_shape_of_very_many_dimensions_is_not_multiplied() -> None:
    request = oip.ModelInferRequest(model_name="identity")
    request.inputs.add(name="bytes_in", datatype="BYTES", shape=[2**62] * 100_000)

    with pytest.raises(InvalidInput, match="100000 dimensions; at most 32"):
        await (await inference()).infer(parsed(request))
