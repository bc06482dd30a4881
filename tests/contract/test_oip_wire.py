"""Our OIP proto is wire-compatible with Triton's, KServe's and MLServer's, to the field number.

`oip_wire.txt` is the protocol written down once more, apart from the proto; nothing in it may change.
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from mesh.oip import open_inference_pb2 as oip

GOLDEN = Path(__file__).with_name("oip_wire.txt")

# Fields that we add; clients of the other servers ignore them.
OURS = {
    "RepositoryModelLoadResponse": ["1 model_name string", "2 isLoaded bool"],
    "RepositoryModelUnloadResponse": ["1 model_name string", "2 isUnloaded bool"],
}

_TYPES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


def golden() -> tuple[set[str], dict[str, list[str]]]:
    rpcs: set[str] = set()
    messages: dict[str, list[str]] = {}
    for line in GOLDEN.read_text().splitlines():
        if line.startswith("rpc "):
            rpcs.add(line)
        elif line.startswith("message "):
            fields = messages.setdefault(line.removeprefix("message "), [])
        elif line.startswith("  "):
            fields.append(line.strip())
    return rpcs, messages


def type_name(field: FieldDescriptor) -> str:
    if field.message_type is None:
        return _TYPES[field.type]
    if field.message_type.GetOptions().map_entry:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        return f"map<{type_name(key)},{type_name(value)}>"
    return str(field.message_type.name)


def written(field: FieldDescriptor) -> str:
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    repeated = "repeated " if field.is_repeated and not is_map else ""
    oneof = f" oneof {field.containing_oneof.name}" if field.containing_oneof else ""
    return f"{field.number} {field.name} {repeated}{type_name(field)}{oneof}"


def message(name: str) -> Descriptor:
    outer, _, inner = name.partition(".")
    found = oip.DESCRIPTOR.message_types_by_name[outer]
    return found.nested_types_by_name[inner] if inner else found


def test_every_rpc_is_there_with_its_types() -> None:
    rpcs, _ = golden()

    service = oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    ours = {
        f"rpc {method.name} {'stream ' * method.client_streaming}{method.input_type.name}"
        f" -> {'stream ' * method.server_streaming}{method.output_type.name}"
        for method in service.methods
    }

    assert service.full_name == "inference.GRPCInferenceService"
    assert ours == rpcs
    assert len(ours) == 20


def test_every_message_has_these_fields_and_no_others() -> None:
    _, messages = golden()

    ours = {name: [written(field) for field in message(name).fields] for name in messages}

    expected = {name: OURS.get(name, fields) for name, fields in messages.items()}
    assert ours == expected
    assert len(messages) == 45


def test_model_config_keeps_tritons_numbers() -> None:
    numbers = {field.name: field.number for field in message("ModelConfig").fields}

    assert numbers == {
        "name": 1,
        "platform": 2,
        "max_batch_size": 4,
        "input": 5,
        "output": 6,
        "dynamic_batching": 11,
        "parameters": 14,
        "backend": 17,
        "model_transaction_policy": 19,
    }
