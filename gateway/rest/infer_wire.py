"""ModelInferRequest and ModelInferResponse as bytes whose tensors are slices: what is large never becomes a message.

A protobuf message copies each `bytes` that goes in or out of it. Here the small part is a message, and raw contents are
put beside it as they are, by the wire format of protobuf's "Encoding" page. What tensors hold is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from gateway import wire
from mesh.errors import Internal, InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import varint

Slice = bytes | memoryview

_RAW_OUTPUTS = oip.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER
_BYTES = 2  # wire type: a length and that many bytes
_RAW_INPUT_TAG = bytes([oip.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3 | _BYTES])


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor in the protocol's raw form: little-endian, row-major, BYTES elements behind their lengths."""

    name: str
    datatype: str
    shape: list[int]
    raw: Slice


def request_bytes(head: oip.ModelInferRequest, raws: Sequence[Slice]) -> bytes:
    """`head`, which has no contents, with `raws` as its raw contents. Copies each of them once."""
    parts: list[Slice] = [head.SerializeToString()]
    for raw in raws:
        parts += (_RAW_INPUT_TAG, varint(len(raw)), raw)
    return b"".join(parts)


def split_response(answer: bytes) -> tuple[oip.ModelInferResponse, list[memoryview]]:
    """The message without its raw contents, and these as slices of `answer`. Raises Internal: it is a peer's answer."""
    view = memoryview(answer)
    head, raws, begin = [], [], 0
    try:
        for number, wire_type, start, end in wire.fields(answer):
            if number == _RAW_OUTPUTS and wire_type == _BYTES:
                raws.append(view[start:end])
            else:
                head.append(view[begin:end])
            begin = end
        return oip.ModelInferResponse.FromString(b"".join(head)), raws
    except (InvalidInput, DecodeError):
        raise Internal("the answer of the model's server is no ModelInferResponse") from None


def parse_response(answer: bytes) -> oip.ModelInferResponse:
    """The whole message. Raises Internal."""
    try:
        return oip.ModelInferResponse.FromString(answer)
    except DecodeError:
        raise Internal("the answer of the model's server is no ModelInferResponse") from None
