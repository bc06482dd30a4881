"""A protobuf message as JSON the way Triton's REST writes it: every field, numbers as numbers, enums by name.

protobuf's own JSON form writes 64-bit numbers as strings, which readers of counts and dimensions do not expect.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from gateway.rest.bodies import Json


def message_to_json(message: Message) -> dict[str, Json]:
    """All fields by name; messages and members of a oneof that are not set are absent."""
    body = {}
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        body[field.name] = _field(getattr(message, field.name), field)
    return body


# Any: what protobuf gives for a field of this kind, and its descriptor, which is one of two classes that share no base.
def _field(value: Any, field: Any) -> Json:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of_value = field.message_type.fields_by_name["value"]
        return {str(key): _single(value[key], of_value) for key in value}
    if field.is_repeated:
        return [_single(one, field) for one in value]
    return _single(value, field)


def _single(value: Any, field: Any) -> Json:
    if isinstance(value, Message):
        return message_to_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return value
