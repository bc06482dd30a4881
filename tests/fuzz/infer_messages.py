"""Requests of ModelInfer as a hostile client makes them: a good one, spoiled a few times, as a message and as bytes.

A case is a few small integers, so hypothesis makes thousands a second and shrinks them to the change that matters:
which good request, and which changes with two numbers each, that say where and to what.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import DATATYPES

NAMES = tuple(DATATYPES)
SIZES = (-1, 0, 1, 2, 7, 8, 9, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63), 10**6)
TEXTS = (
    "", "1", "99", "identity", "countdown", "iris", "hash", "nobody", "int32_in", "fp16_in", "bytes_out", "text_input",
    "../../etc/passwd", "a" * 5000, "ünïcode", "\x00", "int32", "INT128", "-1", "1.0", " ", "v1", "%00", "\U0001f600",
)  # fmt: skip
PARAMETERS = (
    "triton_enable_empty_final_response", "triton_final_response", "binary_data_output", "binary_data_size", "timeout",
    "priority", "sequence_id", "sequence_start", "shared_memory_region", "shared_memory_byte_size", "classification",
)  # fmt: skip
CONTENTS = tuple(field.name for field in oip.InferTensorContents.DESCRIPTOR.fields)

Request = oip.ModelInferRequest


@dataclass(frozen=True)
class InferCase:
    """base: a row of BASES. changes: (a row of CHANGES or, after these, of SPOILS; where; what)."""

    base: int
    changes: tuple[tuple[int, int, int], ...]

    def message(self) -> bytes:
        """The request's bytes."""
        request = BASES[self.base % len(BASES)]()
        spoils = []
        for which, where, what in self.changes:
            row = which % (len(CHANGES) + len(SPOILS))
            if row < len(CHANGES):
                CHANGES[row](request, where, what)
            else:
                spoils.append((SPOILS[row - len(CHANGES)], where, what))
        data = request.SerializeToString()
        for spoil, where, what in spoils:
            data = spoil(data, where, what)
        return data

    @property
    def words(self) -> str:
        """What the case is, for a person."""
        rows = [which % (len(CHANGES) + len(SPOILS)) for which, _, _ in self.changes]
        functions = [(*CHANGES, *SPOILS)[row].__name__ for row in rows]
        return f"{BASES[self.base % len(BASES)].__name__} then {functions} with {self.changes}"


def infer_cases(max_changes: int = 4) -> st.SearchStrategy[InferCase]:
    change = st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535))
    return st.builds(InferCase, st.integers(0, 255), st.lists(change, max_size=max_changes).map(tuple))


# --- good requests


def _add(request: Request, name: str, shape: list[int], raw: bool) -> None:
    """An input of that datatype with values that it can hold."""
    datatype = DATATYPES[name]
    tensor = request.inputs.add(name=f"{name.lower()}_in", datatype=name, shape=shape)
    count = int(np.prod(shape))
    values = [b"text"] * count if name == "BYTES" else np.ones(count, datatype.dtype).tolist()
    if not raw:
        getattr(tensor.contents, datatype.contents_field or "fp32_contents").extend(values)
    elif name == "BYTES":
        request.raw_input_contents.append(b"".join(struct.pack("<I", len(value)) + value for value in values))
    else:
        request.raw_input_contents.append(bytes(count * datatype.size_bytes))


def typed() -> Request:
    request = Request(model_name="identity", id="typed", outputs=[{"name": "int32_out"}])
    _add(request, "INT32", [1, 2], raw=False)
    return request


def raw() -> Request:
    request = Request(model_name="identity", id="raw", outputs=[{"name": "fp32_out"}])
    _add(request, "FP32", [1, 16], raw=True)
    return request


def every_datatype_raw() -> Request:
    request = Request(model_name="identity")
    for name in NAMES:
        _add(request, name, [2, 2], raw=True)
    return request


def every_datatype_typed() -> Request:
    request = Request(model_name="identity")
    for name in NAMES:
        if DATATYPES[name].contents_field:
            _add(request, name, [2, 2], raw=False)
    return request


def strings() -> Request:
    request = Request(model_name="identity", outputs=[{"name": "bytes_out"}])
    _add(request, "BYTES", [4, 2], raw=True)
    return request


def iris() -> Request:
    request = Request(model_name="iris")
    request.inputs.add(name="input", datatype="FP64", shape=[1, 4]).contents.fp64_contents.extend([5.1, 3.5, 1.4, 0.2])
    return request


def countdown() -> Request:
    request = Request(model_name="countdown", outputs=[{"name": "int64_out"}])
    _add(request, "INT64", [1, 1], raw=False)
    return request


def text() -> Request:
    request = Request(model_name="hash")
    for name, datatype, value in (
        ("text_input", "BYTES", b"abc"),
        ("sampling_parameters", "BYTES", b'{"max_tokens": 2, "temperature": 0}'),
    ):
        request.inputs.add(name=name, datatype=datatype, shape=[1]).contents.bytes_contents.append(value)
    return request


def nothing() -> Request:
    return Request()


BASES: tuple[Callable[[], Request], ...] = (
    typed, raw, every_datatype_raw, every_datatype_typed, strings, iris, countdown, text, nothing,
)  # fmt: skip


# --- changes to the message: `where` picks an input, `what` the value


def _input(request: Request, where: int) -> oip.ModelInferRequest.InferInputTensor:
    if not request.inputs:
        request.inputs.add()
    return request.inputs[where % len(request.inputs)]


def another_dimension(request: Request, where: int, what: int) -> None:
    shape = _input(request, where).shape
    if shape:
        shape[what % len(shape)] = SIZES[(what >> 4) % len(SIZES)]


def another_rank(request: Request, where: int, what: int) -> None:
    shape = _input(request, where).shape
    del shape[what % 4 :]
    shape.extend([SIZES[what % len(SIZES)]] * (0, 1, 2, 40)[(what >> 4) % 4])


def another_datatype(request: Request, where: int, what: int) -> None:
    _input(request, where).datatype = (*NAMES, *TEXTS, "fp32")[what % (len(NAMES) + len(TEXTS) + 1)]


def another_name(request: Request, where: int, what: int) -> None:
    names = [tensor.name for tensor in request.inputs] + list(TEXTS)
    _input(request, where).name = names[what % len(names)]


def an_input_twice(request: Request, where: int, what: int) -> None:
    request.inputs.add().CopyFrom(_input(request, where))
    if what % 2 and request.raw_input_contents:
        request.raw_input_contents.append(request.raw_input_contents[where % len(request.raw_input_contents)])


def an_input_less(request: Request, where: int, what: int) -> None:
    if request.inputs:
        del request.inputs[where % len(request.inputs)]
    if what % 2 and request.raw_input_contents:
        del request.raw_input_contents[where % len(request.raw_input_contents)]


def more_contents(request: Request, where: int, what: int) -> None:
    """Values in any of the typed fields: those that the datatype cannot hold as well."""
    field = CONTENTS[what % len(CONTENTS)]
    values: dict[str, list[object]] = {
        "bool_contents": [True],
        "int_contents": [0, 2**31 - 1, -(2**31)],
        "int64_contents": [2**63 - 1, -(2**63), 64],
        "uint_contents": [2**32 - 1],
        "uint64_contents": [2**64 - 1],
        "fp32_contents": [float("nan"), float("inf")],
        "fp64_contents": [float("-inf"), 1e308],
        "bytes_contents": [b"", b"\xff", b'{"max_tokens": -1}'],
    }
    getattr(_input(request, where).contents, field).extend(values[field][: 1 + (what >> 4) % 3])


def other_contents(request: Request, where: int, what: int) -> None:
    tensor = _input(request, where)
    tensor.ClearField("contents")
    if what % 2:
        more_contents(request, where, what >> 1)
    else:
        tensor.contents.SetInParent()


def another_raw(request: Request, where: int, what: int) -> None:
    """Raw contents that are longer, shorter, of another kind, or of a length that lies."""
    contents = request.raw_input_contents
    if not contents:
        contents.append(b"\x01\x00\x00\x00")
    index = where % len(contents)
    old = contents[index]
    contents[index] = (
        old[: (what >> 4) % (len(old) + 1)],
        old + b"x" * ((what >> 4) % 16),
        b"",
        b"\xff\xff\xff\xff" + old,
        b"\xff\xff\xff\x7f",
        random.Random(what).randbytes(len(old)),
        old[:4] + b"\x00" * ((what >> 4) % 64),
        bytes(4) * ((what >> 4) % 600),
    )[what % 8]


def a_raw_more(request: Request, where: int, what: int) -> None:
    request.raw_input_contents.extend([b"\x00" * (what % 32)] * (1 + where % 3))


def a_raw_less(request: Request, where: int, what: int) -> None:
    if request.raw_input_contents:
        del request.raw_input_contents[where % len(request.raw_input_contents)]


def another_model(request: Request, where: int, what: int) -> None:
    setattr(request, ("model_name", "model_version", "id")[where % 3], TEXTS[what % len(TEXTS)])


def a_parameter(request: Request, where: int, what: int) -> None:
    owner = (request, _input(request, where), *request.outputs)[where % (2 + len(request.outputs))]
    parameter = owner.parameters[(*PARAMETERS, *TEXTS)[what % (len(PARAMETERS) + len(TEXTS))]]
    kind = (what >> 6) % 6
    if kind == 0:
        parameter.bool_param = True
    elif kind == 1:
        parameter.int64_param = SIZES[what % len(SIZES)]
    elif kind == 2:
        parameter.string_param = TEXTS[what % len(TEXTS)]
    elif kind == 3:
        parameter.double_param = float("nan")
    elif kind == 4:
        parameter.uint64_param = 2**64 - 1


def an_output(request: Request, where: int, what: int) -> None:
    known = [f"{name.lower()}_out" for name in NAMES] + list(TEXTS)
    for _ in range(1 + where % 3):
        request.outputs.add(name=known[what % len(known)])


def no_outputs(request: Request, where: int, what: int) -> None:
    request.ClearField("outputs")


CHANGES: tuple[Callable[[Request, int, int], None], ...] = (
    another_dimension, another_rank, another_datatype, another_name, an_input_twice, an_input_less, more_contents,
    other_contents, another_raw, a_raw_more, a_raw_less, another_model, a_parameter, an_output, no_outputs,
)  # fmt: skip


# --- changes to the bytes


def a_byte_flipped(data: bytes, where: int, what: int) -> bytes:
    if not data:
        return b"\xff"
    spoiled = bytearray(data)
    spoiled[(where * 257 + what) % len(data)] ^= 1 << (what % 8)
    return bytes(spoiled)


def cut_off(data: bytes, where: int, what: int) -> bytes:
    return data[: what % (len(data) + 1)]


def an_unknown_field(data: bytes, where: int, what: int) -> bytes:
    tag = ((100 + what) << 3) | (where % 8)
    return data + _varint(tag) + (b"\x01", b"\x00" * 8, b"\x03abc", b"\xff" * 11)[what % 4]


def a_length_that_lies(data: bytes, where: int, what: int) -> bytes:
    """A field of the message that says that it is longer than the message."""
    length = (2**31 - 1, 2**32, 2**63, 2**64 - 1, len(data) + 1, 1 << 20)[what % 6]
    return data + _varint(((1 + where % 8) << 3) | 2) + _varint(length) + b"x"


def not_utf8(data: bytes, where: int, what: int) -> bytes:
    value = (b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80")[what % 4]
    return data + _varint(((1 + where % 3) << 3) | 2) + _varint(len(value)) + value


def inserted(data: bytes, where: int, what: int) -> bytes:
    at = (where * 257 + what) % (len(data) + 1)
    return data[:at] + random.Random(what).randbytes(1 + what % 9) + data[at:]


def random_bytes(data: bytes, where: int, what: int) -> bytes:
    return random.Random((where << 16) | what).randbytes(what % 300)


def groups(data: bytes, where: int, what: int) -> bytes:
    """Groups inside groups, an old form of messages, that are never ended."""
    return data + _varint((99 << 3) | 3) * (what % 2000)


def the_message_twice(data: bytes, where: int, what: int) -> bytes:
    return data + data


def many_empty_fields(data: bytes, where: int, what: int) -> bytes:
    return data + (_varint(((5 + where % 3) << 3) | 2) + b"\x00") * (what % 3000)


def another_wire_type(data: bytes, where: int, what: int) -> bytes:
    return data + _varint(((1 + where % 8) << 3) | (0, 1, 5, 3, 4, 6, 7)[what % 7]) + b"\x01" * 8


SPOILS: tuple[Callable[[bytes, int, int], bytes], ...] = (
    a_byte_flipped, cut_off, an_unknown_field, a_length_that_lies, not_utf8, inserted, random_bytes, groups,
    the_message_twice, many_empty_fields, another_wire_type,
)  # fmt: skip


def _varint(value: int) -> bytes:
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)
