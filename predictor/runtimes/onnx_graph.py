"""What an ONNX file says of other files: the external data of its tensors, found without the `onnx` package.

ONNX Runtime opens what a model names. A model may name only files of its own folder, and none by ONNX Runtime's way to
say "at this address in memory". Reference: onnx/onnx.proto, of which this declares the way to every TensorProto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from mesh.errors import CorruptArtifact

# message → field → (number, type). All are declared repeated: of a field that comes twice, both are seen.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph"), "training": (20, "Training"), "function": (25, "Function")},
    "Training": {"initialization": (1, "Graph"), "algorithm": (2, "Graph")},
    "Graph": {"node": (1, "Node"), "initializer": (5, "Tensor"), "sparse_initializer": (15, "Sparse")},
    "Function": {"node": (7, "Node"), "attribute": (11, "Attribute")},
    "Node": {"attribute": (5, "Attribute")},
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "tensors": (10, "Tensor"),
        "graphs": (11, "Graph"),
        "sparse_tensor": (22, "Sparse"),
        "sparse_tensors": (23, "Sparse"),
    },
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Tensor": {"external_data": (13, "Entry")},
    "Entry": {"key": (1, "bytes"), "value": (2, "bytes")},
}


def check_external_data(model: Path, folder: Path | None) -> None:
    """Raise CorruptArtifact unless every file that `model` names lies in `folder`; None allows no files at all."""
    for location in sorted(set(_locations(model))):
        shown = ascii(location[:100])
        if folder is None:
            raise CorruptArtifact(f"{model.name} has its weights in {shown}; deploy the folder that holds both files")
        if not _is_inside(folder, location):
            raise CorruptArtifact(f"{model.name} names {shown}, which is no file of the model's folder")


def _is_inside(folder: Path, location: str) -> bool:
    """Whether `location` is a file in `folder` or below, links followed."""
    try:
        file = (folder / location).resolve()
        return file.is_relative_to(folder.resolve()) and file.is_file()
    except (OSError, ValueError):  # a name too long for any file, or with a zero byte
        return False


def _locations(model: Path) -> Iterator[str]:
    """What the tensors' external data say of where they are."""
    message = _model_class()()
    try:
        message.ParseFromString(model.read_bytes())
    except DecodeError:
        raise CorruptArtifact(f"{model.name} is truncated or no ONNX model") from None
    for entry in _entries(message):
        # An entry may give its key twice; the last counts, as for ONNX Runtime, whose field is not repeated.
        if entry.key and entry.key[-1] == b"location":
            yield (entry.value[-1] if entry.value else b"").decode("utf-8", "replace")


def _entries(message: Any) -> Iterator[Any]:  # protobuf's dynamic messages have no types
    """All entries below `message`. The depth is bounded: protobuf parses no more than 100 levels."""
    if message.DESCRIPTOR.name == "Entry":
        yield message
        return
    for _, values in message.ListFields():
        for value in values:
            yield from _entries(value)


def _model_class() -> type[Any]:
    file = descriptor_pb2.FileDescriptorProto(name="onnx_graph.proto", package="onnx_graph", syntax="proto2")
    types = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            declared = message.field.add(name=field, number=number, label=types.LABEL_REPEATED)
            if kind == "bytes":
                declared.type = types.TYPE_BYTES
            else:
                declared.type, declared.type_name = types.TYPE_MESSAGE, f".onnx_graph.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[Any] = message_factory.GetMessageClass(pool.FindMessageTypeByName("onnx_graph.Model"))
    return found
