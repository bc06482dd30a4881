"""ModelInfer's messages off the wire and onto it, with raw contents apart: no copy of a tensor on the way in, one out.

Protobuf copies every bytes field when it parses, when the field is read, when it is set and when it writes. So the raw
contents of a large request are taken out of the encoding as views before the rest is parsed, and those of an answer are
joined to the encoding of the rest. Knows the wire format (protobuf's "Encoding" page), not what a tensor is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Buffer, RawContents, bytes_of, varint

# Below this, parsing the whole is faster than looking for the raw contents in Python.
LARGE_BYTES = 32 << 10
# Raw contents are few. A message of more fields than this at its top level is left to protobuf, which walks faster.
MAX_FIELDS = 4096

_RAW_INPUT = oip.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number << 3 | 2
_RAW_OUTPUT = bytes([oip.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number << 3 | 2])
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(slots=True)
class InferRequest:
    """A request whose raw contents are in `raw`, whether or not they are in the message as well."""

    message: oip.ModelInferRequest
    raw: Sequence[RawContents]


@dataclass(slots=True)
class InferResponse:
    """An answer whose raw contents are in `raw` only. Arrays among them are C-contiguous."""

    message: oip.ModelInferResponse
    raw: Sequence[Buffer]

    def whole(self) -> oip.ModelInferResponse:
        """The message with its raw contents, copied."""
        self.message.raw_output_contents.extend(map(bytes_of, self.raw))
        return self.message


def parsed(message: oip.ModelInferRequest) -> InferRequest:
    """A request that came as a whole message."""
    return InferRequest(message, list(message.raw_input_contents))


def read_request(encoding: bytes) -> InferRequest:
    """The request in `encoding`, which its raw contents may be views of. Raises what protobuf raises."""
    parts = _take_apart(memoryview(encoding)) if len(encoding) >= LARGE_BYTES else None
    if parts is None:
        return parsed(oip.ModelInferRequest.FromString(encoding))
    rest, raw = parts
    return InferRequest(oip.ModelInferRequest.FromString(rest), raw)


def write_response(response: InferResponse) -> bytes:
    """The encoding of the answer."""
    if not response.raw:
        return response.message.SerializeToString()
    parts: list[bytes | memoryview] = [response.message.SerializeToString()]
    for contents in response.raw:
        octets = memoryview(contents) if isinstance(contents, bytes) else contents.data
        parts += (_RAW_OUTPUT + varint(octets.nbytes), octets)
    return b"".join(parts)


def _take_apart(encoding: memoryview) -> tuple[bytes, list[RawContents]] | None:
    """The encoding without its raw contents, and these. None for what only protobuf can judge."""
    rest: list[memoryview] = []
    raw: list[RawContents] = []
    position = 0
    try:
        for _ in range(MAX_FIELDS):
            if position == len(encoding):
                return b"".join(rest), raw
            begin = position
            tag, position = _read_varint(encoding, position)
            start, position = _value(encoding, tag & 7, position)
            if position > len(encoding):
                return None
            if tag == _RAW_INPUT:
                raw.append(encoding[start:position])
            else:
                rest.append(encoding[begin:position])
    except (IndexError, ValueError):
        return None
    return None


def _value(encoding: memoryview, wire_type: int, position: int) -> tuple[int, int]:
    """Where a field's value starts and ends. Raises ValueError for a group, which nobody has written for a decade."""
    if wire_type == _BYTES:
        size_bytes, start = _read_varint(encoding, position)
        return start, start + size_bytes
    if wire_type == _VARINT:
        return position, _read_varint(encoding, position)[1]
    if wire_type == _FIXED32:
        return position, position + 4
    if wire_type == _FIXED64:
        return position, position + 8
    raise ValueError


def _read_varint(encoding: memoryview, position: int) -> tuple[int, int]:
    """The number at `position`, and where it ends. Raises IndexError past the end, ValueError beyond 10 bytes."""
    number = 0
    for shift in range(0, 70, 7):
        octet = encoding[position]
        position += 1
        number |= (octet & 0x7F) << shift
        if octet < 0x80:
            return number, position
    raise ValueError
