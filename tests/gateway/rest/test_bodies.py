"""JSON bodies in and out."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from gateway.rest.bodies import json_response, read_object
from mesh.errors import InvalidInput


def request(body: bytes) -> Request:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


async def test_object_is_read() -> None:
    assert await read_object(request(b'{"a": [1, 2.5, "x", null]}')) == {"a": [1, 2.5, "x", None]}


async def test_empty_body_is_an_empty_object_where_it_may_be() -> None:
    assert await read_object(request(b""), may_be_empty=True) == {}
    with pytest.raises(InvalidInput, match="not JSON"):
        await read_object(request(b""))


@given(st.binary(max_size=30))
async def test_any_bytes_are_an_object_or_invalid(body: bytes) -> None:
    try:
        value = await read_object(request(body))
    except InvalidInput:
        return
    assert isinstance(value, dict)


def test_arrays_are_written_in_the_shortest_form_that_reads_back() -> None:
    body = bytes(json_response({"x": np.array([0.1, 1e-7], dtype=np.float32), "y": np.array([2**63 - 1])}).body)

    assert body == b'{"x":[0.1,1e-7],"y":[9223372036854775807]}'
    assert np.float32(orjson.loads(body)["x"][0]) == np.float32(0.1)
