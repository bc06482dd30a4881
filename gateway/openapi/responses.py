"""The row and bodies of OpenAI's responses."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.openapi.openai import TAG
from gateway.openapi.operation import STRING, Operation, Schema
from gateway.openapi.requests import body_of
from gateway.rest.responses_requests import ResponsesRequest

_INTEGER: Schema = {"type": "integer"}
_STATUS: Schema = {"enum": ["completed", "incomplete"]}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "type": {"const": "message"},
        "id": STRING,
        "status": _STATUS,
        "role": {"const": "assistant"},
        "content": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"const": "output_text"},
                    "text": STRING,
                    "annotations": {"type": "array"},
                    "logprobs": {"type": "array", "items": {"type": "object"}},
                },
                "required": ["type", "text", "annotations", "logprobs"],
            },
        },
    },
    "required": ["type", "id", "status", "role", "content"],
}
_CALL: Schema = {
    "type": "object",
    "properties": {
        "type": {"const": "function_call"},
        "id": STRING,
        "status": _STATUS,
        "call_id": STRING,
        "name": STRING,
        "arguments": STRING,
    },
    "required": ["type", "id", "status", "call_id", "name", "arguments"],
}
SCHEMAS: dict[str, Schema] = {
    "Response": {
        "type": "object",
        "properties": {
            "id": STRING,
            "object": {"const": "response"},
            "created_at": _INTEGER,
            "status": _STATUS,
            "model": STRING,
            "error": {"type": "null"},
            "incomplete_details": {"type": ["object", "null"]},
            "output": {"type": "array", "items": {"anyOf": [_MESSAGE, _CALL]}},
            "usage": {
                "type": "object",
                "properties": {"input_tokens": _INTEGER, "output_tokens": _INTEGER, "total_tokens": _INTEGER},
                "required": ["input_tokens", "output_tokens", "total_tokens"],
            },
        },
        "required": ["id", "object", "created_at", "status", "model", "error", "incomplete_details", "output", "usage"],
    }
}


def operations() -> Iterator[Operation]:
    """The row."""
    body = body_of(ResponsesRequest, {"model": "smollm2", "input": "Name the capital of France."})
    answer = {"$ref": "#/components/schemas/Response"}
    summary = "Answer a text or a conversation, in items"
    yield Operation("POST", "/v1/responses", TAG, summary, answer, body, may_stream=True, more=(404, 501))
