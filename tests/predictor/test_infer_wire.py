"""ModelInfer's messages with raw contents apart: the same requests and answers as protobuf's, and fewer copies."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, decode_request, encode_outputs
from predictor.infer_wire import LARGE_BYTES, MAX_FIELDS, InferResponse, parsed, read_request, write_response

MIB = 1 << 20


def request(*raw: bytes, **fields: object) -> oip.ModelInferRequest:
    message = oip.ModelInferRequest(model_name="m", raw_input_contents=raw, **fields)  # type: ignore[arg-type]
    for index, contents in enumerate(raw):
        message.inputs.add(name=f"x{index}", datatype="UINT8", shape=[len(contents)])
    return message


def test_raw_contents_of_a_large_request_are_views_of_its_encoding() -> None:
    message = request(b"a" * LARGE_BYTES, b"", b"bc", id="mine")
    encoding = message.SerializeToString()

    got = read_request(encoding)

    assert [bytes(each) for each in got.raw] == list(message.raw_input_contents)
    assert all(isinstance(each, memoryview) and each.obj is encoding for each in got.raw)
    assert not got.message.raw_input_contents
    message.ClearField("raw_input_contents")
    assert got.message == message


@given(st.binary(max_size=64), st.permutations(range(4)), st.integers(0, 300))
def test_fields_in_any_order_and_any_end_are_what_protobuf_says(tail: bytes, order: list[int], cut: int) -> None:
    parts = [
        oip.ModelInferRequest(raw_input_contents=[b"r" * LARGE_BYTES]).SerializeToString(),
        oip.ModelInferRequest(model_name="m", id="1").SerializeToString(),
        oip.ModelInferRequest(raw_input_contents=[b"s", b""]).SerializeToString(),
        tail,
    ]
    encoding = b"".join(parts[index] for index in order)
    encoding = encoding[: len(encoding) - cut]

    try:
        expected = parsed(oip.ModelInferRequest.FromString(encoding))
    except DecodeError:
        with pytest.raises(DecodeError):
            read_request(encoding)
        return
    got = read_request(encoding)

    assert [bytes(each) for each in got.raw] == expected.raw
    assert got.message.model_name == expected.message.model_name
    assert got.message.id == expected.message.id


def test_a_message_of_very_many_fields_is_left_to_protobuf() -> None:
    message = request(*[b""] * (MAX_FIELDS + 1), b"x" * LARGE_BYTES)

    got = read_request(message.SerializeToString())

    assert got.raw == list(message.raw_input_contents)


@pytest.mark.parametrize("raw", [True, False])
def test_an_answer_is_written_as_protobuf_writes_it(raw: bool) -> None:
    tensors = [
        Tensor("x", "FP32", np.arange(600, dtype=np.float32).reshape(2, 300)),
        Tensor("strided", "INT64", np.arange(6)[::2]),
        Tensor("scalar", "FP64", np.array(1.5)),
        Tensor("text", "BYTES", np.array([b"", b"ab"], dtype=object)),
        Tensor("none", "BOOL", np.zeros((0, 3), bool)),
    ]

    def response() -> InferResponse:
        message = oip.ModelInferResponse(model_name="m", id="7")
        return InferResponse(message, encode_outputs(message, tensors, raw=raw))

    assert oip.ModelInferResponse.FromString(write_response(response())) == response().whole()


def test_a_tensor_is_copied_once_between_the_bytes_that_come_and_those_that_go() -> None:
    encoding = request(b"x" * (16 * MIB)).SerializeToString()

    tracemalloc.start()
    try:
        got = read_request(encoding)
        tensor = decode_request(got.message, got.raw)["x0"]
        message = oip.ModelInferResponse()
        answer = write_response(InferResponse(message, encode_outputs(message, [tensor], raw=True)))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(answer) > 16 * MIB
    assert peak_bytes < 17 * MIB
