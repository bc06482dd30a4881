"""Requests of all RPCs of the service but the two that infer: any field set to anything, and the bytes spoiled.

Cases are small integers, as in infer_messages.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from mesh.oip import open_inference_pb2 as oip
from tests.fuzz.infer_messages import SIZES, SPOILS, TEXTS

METHODS = tuple(
    method
    for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    if method.name not in ("ModelInfer", "ModelStreamInfer")
)
# The only model that may be unloaded is one that no other request needs.
MODELS = ("spare", "nobody", "", "../spare", "spare\x00", "a" * 3000)
UNLOADS = ("RepositoryModelLoad", "RepositoryModelUnload")


@dataclass(frozen=True)
class RpcCase:
    """row: of METHODS. fields: (which, what) are set. spoil: (a row of SPOILS, where, what) or None."""

    row: int
    fields: tuple[tuple[int, int], ...]
    spoil: tuple[int, int, int] | None

    @property
    def method(self) -> str:
        return str(METHODS[self.row % len(METHODS)].name)

    def message(self) -> bytes:
        request = GetMessageClass(METHODS[self.row % len(METHODS)].input_type)()
        texts = MODELS if self.method in UNLOADS else (*TEXTS, *MODELS)
        for which, what in self.fields:
            descriptors = request.DESCRIPTOR.fields
            if descriptors:
                _set(request, descriptors[which % len(descriptors)], what, texts)
        data: bytes = request.SerializeToString()
        # A spoiled name could be another model's.
        if self.spoil is None or self.method in UNLOADS:
            return data
        row, where, what = self.spoil
        return SPOILS[row % len(SPOILS)](data, where, what)

    @property
    def words(self) -> str:
        return f"{self.method} of {self.message()[:200]!r} ({len(self.message())} bytes)"


def rpc_cases() -> st.SearchStrategy[RpcCase]:
    spoil = st.none() | st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535))
    fields = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 65535)), max_size=3).map(tuple)
    return st.builds(RpcCase, st.integers(0, 255), fields, spoil)


def _set(message: Message, field: FieldDescriptor, what: int, texts: tuple[str, ...]) -> None:
    text = texts[what % len(texts)]
    target: Any = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = target[text]
        fields = value.DESCRIPTOR.fields
        _set(value, fields[what % len(fields)], what >> 3, texts)
    elif field.is_repeated:
        target.extend([text] * (1 + what % 3))
    elif field.type == FieldDescriptor.TYPE_STRING:
        setattr(message, field.name, text)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        setattr(message, field.name, text.encode())
    elif field.type == FieldDescriptor.TYPE_BOOL:
        setattr(message, field.name, bool(what % 2))
    elif field.type == FieldDescriptor.TYPE_INT64:
        setattr(message, field.name, SIZES[what % len(SIZES)])
    else:
        setattr(message, field.name, abs(SIZES[what % len(SIZES)]) & 0xFFFFFFFF)
