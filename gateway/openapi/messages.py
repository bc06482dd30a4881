"""The JSON Schema of a protobuf message in the form that gateway/rest/message_json.py writes it."""

from __future__ import annotations

from typing import Any

from gateway.openapi.operation import Schema

# By protobuf's number of the type (descriptor.proto, FieldDescriptorProto.Type).
_KINDS: dict[int, Schema] = {
    1: {"type": "number"},
    2: {"type": "number"},
    3: {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
    4: {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
    5: {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    8: {"type": "boolean"},
    9: {"type": "string"},
    13: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
}


def message_schemas(*descriptors: Any) -> dict[str, Schema]:
    """Schemas of these messages and of all that are within them, by name. Any: protobuf has two descriptor classes."""
    schemas: dict[str, Schema] = {}
    waiting = list(descriptors)
    while waiting:
        descriptor = waiting.pop()
        if name_of(descriptor) in schemas or descriptor.GetOptions().map_entry:
            continue
        schemas[name_of(descriptor)] = _schema(descriptor)
        for field in descriptor.fields:
            inner = _value_field(field).message_type
            if inner is not None:
                waiting.append(inner)
    return schemas


def message(descriptor: Any) -> Schema:
    """A reference to the schema of a message. Any: as above."""
    return {"$ref": f"#/components/schemas/{name_of(descriptor)}"}


def name_of(descriptor: Any) -> str:
    """The name of its schema: that of the message, with those around it. Any: as above."""
    return str(descriptor.full_name).partition(".")[2]


def _schema(descriptor: Any) -> Schema:
    always = [field.name for field in descriptor.fields if not field.has_presence]
    schema: Schema = {
        "type": "object",
        "properties": {field.name: _field(field) for field in descriptor.fields},
        "additionalProperties": False,
    }
    return schema | ({"required": always} if always else {})


def _field(field: Any) -> Schema:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {"type": "object", "additionalProperties": _single(_value_field(field))}
    return {"type": "array", "items": _single(field)} if field.is_repeated else _single(field)


def _single(field: Any) -> Schema:
    if field.message_type is not None:
        return message(field.message_type)
    if field.enum_type is not None:
        return {"type": "string", "enum": [value.name for value in field.enum_type.values]}
    return _KINDS[field.type]


def _value_field(field: Any) -> Any:
    """The field itself; of a map that of its values."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return field.message_type.fields_by_name["value"]
    return field
