"""JSON bodies in and out. Reading is strict: UTF-8, no NaN, bounded depth, and an object at the top."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from mesh.errors import InvalidInput

# Values out of a JSON parser: whatever the client wrote.
Json = Any


async def read_object(request: Request, *, may_be_empty: bool = False) -> dict[str, Json]:
    """The JSON object in the body. Raises InvalidInput with what is wrong and where."""
    body = await request.body()
    if not body and may_be_empty:
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # The library's sentence names line and column, and never quotes the body.
        raise InvalidInput(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    return value


def json_response(value: Json, status: int = 200) -> Response:
    """`value` as JSON; arrays of numbers may be numpy's."""
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")
