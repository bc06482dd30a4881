"""An error in the form of the HTTP protocol that was spoken; what it means is decided in mesh/errors.py only."""

from __future__ import annotations

import math
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mesh import context
from mesh.errors import Code, MeshError

V1, V2, OPENAI, ANTHROPIC = "v1", "v2", "openai", "anthropic"

# Where Anthropic's clients look for the request's id.
ANTHROPIC_ID_HEADER = "request-id"
# Anthropic's word for each HTTP status; others are "api_error".
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    501: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# vLLM's, which come without a version.
_OPENAI_PATHS = frozenset({"/tokenize", "/detokenize"})


def protocol_of(path: str) -> str:
    """Which protocol's forms a path calls for; unknown paths get the plain ones of V2."""
    if path.endswith((":predict", ":explain")):
        return V1
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    return OPENAI if path.startswith("/v1/") or path in _OPENAI_PATHS else V2


def error_body(protocol: str, error: MeshError) -> dict[str, Any]:
    """OpenAI's error object, Anthropic's, or {"error": sentence} for the others."""
    if protocol == ANTHROPIC:
        return _anthropic_body(error.message, error.http_status)
    if protocol == OPENAI:
        return _openai_body(error.message, error.openai_type, error.field, error.openai_code)
    return {"error": error.message}


def error_response(protocol: str, error: MeshError) -> Response:
    """The whole response to a request that failed."""
    headers = _id_header(protocol)
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
    if protocol == ANTHROPIC:
        body = _anthropic_body(message, error.status_code)
    elif protocol == OPENAI:
        body = _openai_body(message, Code.INVALID_ARGUMENT.openai_type, None, None)
    else:
        body = {"error": message}
    return _json_response(body, error.status_code, {**_id_header(protocol), **(error.headers or {})})


def _openai_body(message: str, kind: str, param: str | None, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _anthropic_body(message: str, status: int) -> dict[str, Any]:
    return {
        "type": "error",
        "error": {"type": _ANTHROPIC_TYPES.get(status, "api_error"), "message": message},
        "request_id": _request_id(),
    }


def _id_header(protocol: str) -> dict[str, str]:
    request_id = _request_id()
    return {ANTHROPIC_ID_HEADER: request_id} if protocol == ANTHROPIC and request_id is not None else {}


def _request_id() -> str | None:
    request = context.current()
    return request.request_id if request else None


def _json_response(body: dict[str, Any], status: int, headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")
