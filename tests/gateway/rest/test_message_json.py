"""Messages as Triton's REST writes them."""

from __future__ import annotations

from gateway.rest.message_json import message_to_json
from mesh.oip import open_inference_pb2 as oip


def test_numbers_are_numbers_and_enums_have_names() -> None:
    config = oip.ModelConfig(name="m", input=[oip.ModelInput(name="x", data_type=oip.TYPE_FP32, dims=[-1, 2**60])])

    body = message_to_json(config)

    assert (body["name"], body["platform"], body["max_batch_size"]) == ("m", "", 0)
    assert body["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 2**60], "optional": False}]
    assert "dynamic_batching" not in body


def test_maps_and_messages_inside() -> None:
    statistics = oip.ModelStatistics(response_stats={"0": oip.InferResponseStatistics(success={"count": 2**63})})

    body = message_to_json(statistics)

    assert body["response_stats"] == {"0": {"success": {"count": 2**63, "ns": 0}}}
    assert body["batch_stats"] == []
