"""An error in the form of the HTTP protocol that was spoken; what it means is decided in mesh/errors.py only."""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mesh.errors import Code, MeshError

V1, V2, OPENAI = "v1", "v2", "openai"


def protocol_of(path: str) -> str:
    """Which protocol's forms a path calls for; unknown paths get the plain ones of V2."""
    if path.endswith((":predict", ":explain")):
        return V1
    return OPENAI if path.startswith("/v1/") else V2


def error_body(protocol: str, error: MeshError) -> dict[str, Any]:
    """OpenAI's error object, or {"error": sentence} for the others."""
    if protocol != OPENAI:
        return {"error": error.message}
    return _openai_body(error.message, error.openai_type, error.field, error.openai_code)


def error_response(protocol: str, error: MeshError) -> Response:
    """The whole response to a request that failed."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return _json_response(error_body(protocol, error), error.http_status, headers)


def routing_error_response(protocol: str, method: str, error: HTTPException) -> Response:
    """404 and 405 of the router, with a sentence."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        message = f"{method} is not allowed on this path; allowed: {allowed}"
    elif error.status_code == 404:
        message = "there is no such path"
    else:
        message = str(error.detail)
    if protocol == OPENAI:
        body = _openai_body(message, Code.INVALID_ARGUMENT.openai_type, None, None)
    else:
        body = {"error": message}
    return _json_response(body, error.status_code, dict(error.headers or {}))


def _openai_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _json_response(body: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")
