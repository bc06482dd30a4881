"""The peek at a message's top level agrees with protobuf, and survives whatever is no protobuf."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.v1 import language_model_pb2 as lm

names = st.text(max_size=40)


@given(names, names, names, st.lists(st.binary(max_size=20), max_size=3))
def test_header_is_what_protobuf_reads(name: str, version: str, request_id: str, raw: list[bytes]) -> None:
    message = oip.ModelInferRequest(
        model_name=name, model_version=version, id=request_id, raw_input_contents=raw, inputs=[{"name": "x"}]
    )

    header = wire.read_header(message.SerializeToString(), has_id=True)

    assert header == wire.Header(name, version, request_id)


def test_fields_may_come_in_any_order_and_the_last_one_counts() -> None:
    first = oip.ModelInferRequest(model_name="first", raw_input_contents=[b"123"]).SerializeToString()
    second = oip.ModelInferRequest(id="7", model_name="second").SerializeToString()

    header = wire.read_header(first + second, has_id=True)

    assert header == wire.Header("second", "", "7")
    assert oip.ModelInferRequest.FromString(first + second).model_name == "second"


def test_field_three_is_no_id_where_it_means_something_else() -> None:
    message = lm.GenerateRequest(model_name="chat", text="a prompt" * 1000).SerializeToString()

    assert wire.read_header(message, has_id=False) == wire.Header("chat", "", "")


@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_invalid(data: bytes) -> None:
    try:
        wire.read_header(data, has_id=True)
    except InvalidInput:
        pass
    else:
        wire.has_field(data, 5)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 11,  # a varint without an end
        b"\x0a\x05abc",  # longer than the message
        b"\x00\x01",  # field number 0
        b"\x0b",  # a group, which proto3 has not
        b"\x0a\x02\xff\xfe",  # a name that is not UTF-8
        b"\x08\x01",  # field 1 as a number
        b"\x7d\x00",  # a fixed32 cut short
    ],
)
def test_malformed_bytes_are_invalid_input(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        wire.read_header(data, has_id=True)


def test_message_of_a_million_fields_is_refused_soon() -> None:
    with pytest.raises(InvalidInput, match="more than"):
        wire.read_header(b"\x20\x01" * 1_000_000, has_id=False)


def test_long_name_is_refused() -> None:
    message = oip.ModelInferRequest(model_name="n" * 5000).SerializeToString()

    with pytest.raises(InvalidInput, match="5000 bytes"):
        wire.read_header(message, has_id=True)


def test_has_field_finds_top_level_fields_only() -> None:
    message = lm.GenerateResponse(token_ids=[1], text="a").SerializeToString()

    assert wire.has_field(message, lm.GenerateResponse.TOKEN_IDS_FIELD_NUMBER)
    assert not wire.has_field(message, lm.GenerateResponse.USAGE_FIELD_NUMBER)
    assert not wire.has_field(b"\xff", 1)
