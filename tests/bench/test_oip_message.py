"""The benchmark's request and answer are valid messages with the same numbers in every protocol."""

from __future__ import annotations

import numpy as np
import orjson

from bench.oip.message import COLUMNS, INPUT, OUTPUT, message
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import decode_request, decode_response


def test_all_forms_hold_the_same_tensor() -> None:
    made = message(3)

    sent = decode_request(oip.ModelInferRequest.FromString(made.request))[INPUT]
    answered = decode_response(oip.ModelInferResponse.FromString(made.response))[OUTPUT]
    streamed = oip.ModelStreamInferResponse.FromString(made.stream_response).infer_response
    json_sent = orjson.loads(made.json_request)["inputs"][0]
    json_answered = orjson.loads(made.json_response)["outputs"][0]

    assert sent.array.shape == (3, COLUMNS)
    assert np.array_equal(sent.array, answered.array)
    assert streamed.SerializeToString() == made.response
    assert json_sent["shape"] == json_answered["shape"] == [3, COLUMNS]
    assert np.array_equal(np.float32(json_sent["data"]), sent.array.ravel())
    assert json_answered["data"] == json_sent["data"]
