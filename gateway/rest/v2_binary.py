"""The binary tensor extension of OIP's REST part: JSON, and behind it the raw bytes of tensors, in one body.

The header `Inference-Header-Content-Length` says where the JSON ends. `binary_data_size` on an input (and on an output
of the answer) says how many of the bytes behind it are that tensor's; `binary_data` on a requested output and
`binary_data_output` on the request ask for it. Bytes are cut, never read: what they hold is the model's server to
check. Reference: Triton's "Binary Tensor Data Extension".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.rest.bodies import Body, Json
from gateway.rest.infer_wire import Slice
from mesh.errors import InvalidInput
from mesh.names import shown

HEADER = "Inference-Header-Content-Length"
SIZE = "binary_data_size"
WANTED = "binary_data"
ALL_WANTED = "binary_data_output"

_MAX_DIGITS = 19


class BinaryData:
    """The bytes behind the JSON, given out from the front, input by input."""

    def __init__(self, data: memoryview | None) -> None:
        """data: None when the body is JSON as a whole."""
        self._data = data
        self._position = 0

    def take(self, size: Json, where: str) -> memoryview:
        """The next `size` bytes. Raises InvalidInput when that is no size, or when there are fewer."""
        if type(size) is not int or size < 0:
            raise InvalidInput(f"{where}.{SIZE} must be a whole number from 0", field=where)
        if self._data is None and size == 0:
            return memoryview(b"")
        if self._data is None:
            raise InvalidInput(f"{where} has {SIZE}, but the request has no header {HEADER}", field=HEADER)
        left = len(self._data) - self._position
        if size > left:
            raise InvalidInput(
                f"{where}.{SIZE} is {size}, but {left} bytes are left behind the JSON part of the body", field=where
            )
        begin, self._position = self._position, self._position + size
        return self._data[begin : self._position]

    def check_all_taken(self) -> None:
        """Raise InvalidInput when bytes are left that belong to no input."""
        left = 0 if self._data is None else len(self._data) - self._position
        if left:
            raise InvalidInput(f"{left} bytes are left behind the last tensor of the body", field=HEADER)


def split_body(body: Body, json_length: str | None) -> tuple[Body | memoryview, BinaryData]:
    """The JSON part and what is behind it. json_length: the header, as it came; None when it did not."""
    if json_length is None:
        return body, BinaryData(None)
    if not (json_length.isascii() and json_length.isdecimal() and len(json_length) <= _MAX_DIGITS):
        raise InvalidInput(f"{HEADER} must be a whole number of bytes; got {shown(json_length)}", field=HEADER)
    length = int(json_length)
    if not 1 <= length <= len(body):
        raise InvalidInput(f"{HEADER} is {length}; this body of {len(body)} bytes takes 1 to {len(body)}", field=HEADER)
    view = memoryview(body)
    return view[:length], BinaryData(view[length:])


@dataclass(slots=True)
class AnswerForm:
    """Which outputs go out as bytes. by_default: those that are not in `by_output`.

    non_finite: what goes out as JSON may hold NaN and the infinities.
    """

    by_default: bool = False
    by_output: dict[str, bool] = field(default_factory=dict)
    non_finite: bool = False

    @property
    def may_be_binary(self) -> bool:
        """False when every output is JSON."""
        return self.by_default or any(self.by_output.values())

    def is_binary(self, output: str) -> bool:
        """Whether that output goes out as bytes."""
        return self.by_output.get(output, self.by_default)


def flag(parameters: Mapping[str, Json], name: str, where: str) -> bool | None:
    """A parameter that is true or false; None when it is not there. Raises InvalidInput."""
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"{where}.{name} must be true or false", field=f"{where}.{name}")
    return value


class BinaryResponse(Response):
    """JSON and the tensors behind it, each written as it is: they are not joined."""

    def __init__(self, head: bytes, tensors: Sequence[Slice]) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = "application/octet-stream"
        self.body = b""
        self.init_headers({HEADER.lower(): str(len(head))})
        size_bytes = len(head) + sum(len(tensor) for tensor in tensors)
        self.headers["content-length"] = str(size_bytes)
        self._parts = [head, *tensors]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
