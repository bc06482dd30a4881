"""A look at the top level of a protobuf message without parsing it: enough to route bytes that only pass through.

All request messages of the inference and mesh.v1 packages keep the model's name in field 1 and its version in field 2;
ModelInferRequest has its id in field 3. Everything else is skipped by length. Wire format: protobuf's "Encoding" page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mesh.errors import InvalidInput
from mesh.tensors import varint

MAX_FIELDS = 20_000
MAX_STRING_BYTES = 1024

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELD_NUMBER = 2**29 - 1


@dataclass(frozen=True, slots=True)
class Header:
    """What the gateway reads of a request that it forwards."""

    model_name: str
    model_version: str
    request_id: str


def read_header(message: bytes, *, has_id: bool) -> Header:
    """The strings in fields 1, 2 and (when `has_id`) 3; absent ones are empty, and the last of several counts.

    The whole top level is walked, since fields may come in any order. Raises InvalidInput for bytes that are no
    protobuf message, for more than MAX_FIELDS fields, and for a string that is too long or not UTF-8.
    """
    strings = ["", "", ""]
    last = 3 if has_id else 2
    for number, wire_type, start, end in fields(message):
        if number <= last:
            strings[number - 1] = _string(message, number, wire_type, start, end)
    return Header(*strings)


def has_field(message: bytes, number: int) -> bool:
    """True when the message has that field at its top level; false for bytes that are no message."""
    try:
        return any(found == number for found, _, _, _ in fields(message))
    except InvalidInput:
        return False


def fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and end of the value of each top-level field. Raises InvalidInput."""
    position, size, count = 0, len(message), 0
    while position < size:
        count += 1
        if count > MAX_FIELDS:
            raise InvalidInput(f"the message has more than {MAX_FIELDS} fields at its top level")
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if not 1 <= number <= _MAX_FIELD_NUMBER:
            raise _malformed(position)
        start = position
        if wire_type == _BYTES:
            length, start = _varint(message, position)
            position = start + length
        elif wire_type == _VARINT:
            _, position = _varint(message, position)
        elif wire_type == _FIXED32:
            position += 4
        elif wire_type == _FIXED64:
            position += 8
        else:
            raise _malformed(position)
        if position > size:
            raise _malformed(start)
        yield number, wire_type, start, position


def string_field(path: Sequence[int], text: str) -> bytes:
    """The field at the end of `path`, each step but the last one a message in a message.

    Put behind a message it sets that field: of several values the last counts, and messages in a message are merged.
    """
    content = text.encode()
    for number in reversed(path):
        content = varint(number << 3 | _BYTES) + varint(len(content)) + content
    return content


def _string(message: bytes, number: int, wire_type: int, start: int, end: int) -> str:
    if wire_type != _BYTES:
        raise _malformed(start)
    if end - start > MAX_STRING_BYTES:
        raise InvalidInput(f"field {number} of the message has {end - start} bytes; the limit is {MAX_STRING_BYTES}")
    try:
        return message[start:end].decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"field {number} of the message is not UTF-8") from None


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """The varint at `position` and where it ends."""
    value = shift = 0
    for index in range(position, min(position + 10, len(message))):
        octet = message[index]
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, index + 1
        shift += 7
    raise _malformed(position)


def _malformed(position: int) -> InvalidInput:
    return InvalidInput(f"the request is not a protobuf message: nonsense at byte {position}")
