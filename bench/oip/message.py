"""The one request of the benchmark and its answer, as bytes of each protocol: FP32, [1, 16] or a large one.

The answer is what an identity model gives: the input's bytes as the output. `data` of JSON is the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson

from mesh.oip import open_inference_pb2 as oip

MODEL = "identity"
INPUT, OUTPUT = "x", "y"
COLUMNS = 16
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
REST_PATH = f"/v2/models/{MODEL}/infer"


@dataclass(frozen=True, slots=True)
class Message:
    """A request and its answer. stream_response: the answer on a stream."""

    request: bytes
    response: bytes
    stream_response: bytes
    json_request: bytes
    json_response: bytes


def message(rows: int) -> Message:
    """FP32 [rows, COLUMNS]; of JSON, the numbers are such that a short text is exact."""
    shape = (rows, COLUMNS)
    array = (np.arange(rows * COLUMNS, dtype="<f4") % 512 / 8).reshape(shape)
    request = oip.ModelInferRequest(model_name=MODEL, raw_input_contents=[array.tobytes()])
    request.inputs.add(name=INPUT, datatype="FP32", shape=shape)
    response = oip.ModelInferResponse(model_name=MODEL, model_version="1", raw_output_contents=[array.tobytes()])
    response.outputs.add(name=OUTPUT, datatype="FP32", shape=shape)
    described = {"datatype": "FP32", "shape": list(shape), "data": array.ravel()}
    return Message(
        request=request.SerializeToString(),
        response=response.SerializeToString(),
        stream_response=oip.ModelStreamInferResponse(infer_response=response).SerializeToString(),
        json_request=_json({"inputs": [{"name": INPUT, **described}]}),
        json_response=_json({"model_name": MODEL, "model_version": "1", "outputs": [{"name": OUTPUT, **described}]}),
    )


def _json(body: dict[str, object]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


SMALL = message(1)
