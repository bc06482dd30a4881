"""Anthropic's rows and bodies."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.openapi.operation import STRING, Operation, Schema
from gateway.openapi.requests import body_of
from gateway.rest.anthropic_requests import CountTokensRequest, MessagesRequest

TAG = "Anthropic"

_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": STRING},
    "required": ["type", "text"],
}
_TOOL_USE: Schema = {
    "type": "object",
    "properties": {"type": {"const": "tool_use"}, "id": STRING, "name": STRING, "input": {"type": "object"}},
    "required": ["type", "id", "name", "input"],
}
_USAGE: Schema = {
    "type": "object",
    "properties": {
        "input_tokens": _COUNT,
        "cache_creation_input_tokens": _COUNT,
        "cache_read_input_tokens": _COUNT,
        "output_tokens": _COUNT,
    },
    "required": ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"],
}
SCHEMAS: dict[str, Schema] = {
    "AnthropicMessage": {
        "type": "object",
        "properties": {
            "id": STRING,
            "type": {"const": "message"},
            "role": {"const": "assistant"},
            "model": STRING,
            "content": {"type": "array", "items": {"anyOf": [_TEXT, _TOOL_USE]}},
            "stop_reason": {"enum": ["end_turn", "max_tokens", "stop_sequence", "tool_use"]},
            "stop_sequence": {"type": ["string", "null"]},
            "usage": _USAGE,
        },
        "required": ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"],
    },
    "TokenCount": {"type": "object", "properties": {"input_tokens": _COUNT}, "required": ["input_tokens"]},
}


def operations() -> Iterator[Operation]:
    """All rows."""
    asked = {"model": "smollm2", "messages": [{"role": "user", "content": "Name the capital of France."}]}
    message = {"$ref": "#/components/schemas/AnthropicMessage"}
    body = body_of(MessagesRequest, {**asked, "max_tokens": 64})
    more = (404, 501)
    yield Operation("POST", "/v1/messages", TAG, "Answer a conversation", message, body, may_stream=True, more=more)
    count = {"$ref": "#/components/schemas/TokenCount"}
    summary = "Count the tokens of a conversation"
    yield Operation(
        "POST", "/v1/messages/count_tokens", TAG, summary, count, body_of(CountTokensRequest, asked), more=more
    )
