"""JSON bodies in and out. Reading is strict: UTF-8, no NaN, bounded depth, and an object at the top."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from mesh.errors import InvalidInput

# Values out of a JSON parser: whatever the client wrote.
Json = Any
Body = bytes | bytearray

# Where the edge leaves the whole body.
BODY = "meshserve.body"


async def take(request: Request) -> Body:
    """The whole body, which the request then no longer holds: a large one is freed as soon as it has been used."""
    body: Body | None = request.scope.pop(BODY, None)
    return await request.body() if body is None else body


async def read_object(request: Request, *, may_be_empty: bool = False, non_finite: bool = False) -> dict[str, Json]:
    """The JSON object in the body. Raises InvalidInput with what is wrong and where. non_finite: as `parse_object`."""
    body = await take(request)
    if not body and may_be_empty:
        return {}
    return parse_object(body, non_finite=non_finite)


def parse_object(text: Body | memoryview, *, non_finite: bool = False) -> dict[str, Json]:
    """The JSON object. non_finite: the literals NaN, Infinity and -Infinity are numbers. Raises InvalidInput."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        # The library's sentence names line and column, and never quotes the body.
        if not non_finite:
            raise InvalidInput(f"the body is not JSON: {error}") from None
        value = _parse_with_non_finite(bytes(text), str(error))
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    return value


def json_response(value: Json, status: int = 200) -> Response:
    """`value` as JSON; arrays of numbers may be numpy's."""
    return Response(json_bytes(value), status, media_type="application/json")


def json_bytes(value: Json) -> bytes:
    """`value` as JSON; arrays of numbers may be numpy's."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def _parse_with_non_finite(text: bytes, complaint: str) -> Json:
    """As the strict parser has it but for the three literals: the slow library reads them, and the fast one checks."""
    try:
        value = json.loads(text.decode(), parse_float=_finite)
        # Refuses whole numbers above 64 bits, half surrogate pairs and deep nesting, as on the way in.
        orjson.dumps(value)
    except (ValueError, TypeError, RecursionError):
        raise InvalidInput(f"the body is not JSON: {complaint}") from None
    return value


def _finite(literal: str) -> float:
    value = float(literal)
    if math.isinf(value):
        raise ValueError("a number that only infinity is near")
    return value
