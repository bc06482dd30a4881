"""Requests and answers whose tensors are slices are the same bytes as protobuf's own messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rest.infer_wire import parse_response, request_bytes, split_response
from mesh.errors import Internal
from mesh.oip import open_inference_pb2 as oip

RAWS = st.lists(st.binary(max_size=300), max_size=4)


def head() -> oip.ModelInferRequest:
    return oip.ModelInferRequest(model_name="m", id="r-1", inputs=[{"name": "x", "datatype": "FP32", "shape": [1, 2]}])


@given(RAWS)
def test_request_is_what_protobuf_reads(raws: list[bytes]) -> None:
    message = head()
    message.raw_input_contents.extend(raws)

    built = request_bytes(head(), [memoryview(raw) for raw in raws])

    assert oip.ModelInferRequest.FromString(built) == message


def test_large_tensor_has_a_length_of_several_octets() -> None:
    raw = bytes(3 << 20)

    assert oip.ModelInferRequest.FromString(request_bytes(head(), [raw])).raw_input_contents[0] == raw


@given(RAWS)
def test_answer_comes_apart_without_a_copy(raws: list[bytes]) -> None:
    message = oip.ModelInferResponse(model_name="m", raw_output_contents=raws, outputs=[{"name": "y", "shape": [1]}])
    answer = message.SerializeToString()

    without, slices = split_response(answer)

    assert [bytes(one) for one in slices] == raws
    assert all(one.obj is answer for one in slices)
    message.ClearField("raw_output_contents")
    assert without == message


@pytest.mark.parametrize("answer", [b"\xff", b"\x0a\xff", b"\x32\x05abc", b"\x0a\x02\xff\xfe"])
def test_answer_that_is_none_is_the_servers_fault(answer: bytes) -> None:
    with pytest.raises(Internal):
        split_response(answer)
    with pytest.raises(Internal):
        parse_response(answer)
