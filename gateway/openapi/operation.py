"""One method of one path: the row from which its part of the document is made. It knows no route by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gateway.rest.errors import ANTHROPIC, OPENAI, protocol_of
from gateway.rest.v2_binary import HEADER

# JSON Schema, and parts of an OpenAPI document.
Schema = dict[str, Any]

JSON = "application/json"
BINARY = "application/octet-stream"
EVENTS = "text/event-stream"
_ERROR_FORMS = {OPENAI: "OpenAIError", ANTHROPIC: "AnthropicError"}
STRING: Schema = {"type": "string"}

# May come of any request: a wrong timeout header, too many requests, a fault, no replica, no time left.
_ANYWHERE = (400, 429, 500, 503, 504)
_WITH_BODY = (408, 413, 415)
# No such model; or one whose server does not know the method.
_OF_A_MODEL = (404, 501)
_REASONS = {
    400: "The request is wrong; the sentence names the field.",
    404: "There is no such model, version, explainer or region.",
    408: "The body did not arrive in time.",
    409: "Another change of the same model is under way.",
    413: "The body is larger than the limit, packed or unpacked.",
    415: "The body is in a content coding that is not known.",
    429: "Too much is asked at once.",
    500: "A fault of the server; the logs have it under the request id.",
    501: "Not offered.",
    503: "No replica can answer now, or the model is not ready.",
    504: "The request's time ran out.",
}
_PATH_PARAMETERS = {
    "model": "Name of the deployment.",
    "version": "Version of the model.",
    "region": "Name of a shared memory region.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """answer: schema of the 200's JSON; None when it is never given. body: of the request's JSON.

    body_may_be_empty: without a body everything in it is unset. may_stream: it can answer with server-sent events;
    only_streams: it never answers otherwise. has_binary: tensors may stand behind the JSON, both ways. not_ready: the
    schema of a 503 that is no error. more: further statuses.
    """

    method: str
    path: str
    tag: str
    summary: str
    answer: Schema | None
    body: Schema | None = None
    body_may_be_empty: bool = False
    may_stream: bool = False
    only_streams: bool = False
    has_binary: bool = False
    not_ready: Schema | None = None
    more: tuple[int, ...] = ()
    query: tuple[Schema, ...] = ()

    def to_json(self) -> Schema:
        """The Operation Object."""
        parts = re.findall(r"\{(\w+)\}", self.path)
        parameters = [
            {"name": name, "in": "path", "required": True, "description": _PATH_PARAMETERS[name], "schema": STRING}
            for name in parts
        ]
        parameters += [*self.query, _parameter("RequestId"), _parameter("Timeout")]
        if self.has_binary:
            parameters.append(_parameter("HeaderLength"))
        described: Schema = {
            "operationId": _operation_id(self.method, self.path),
            "tags": [self.tag],
            "summary": self.summary,
            "parameters": parameters,
            "responses": self._responses(bool(parts)),
        }
        if self.body is not None:
            content = {JSON: self.body} | ({BINARY: {"schema": {}}} if self.has_binary else {})
            described["requestBody"] = {"required": not self.body_may_be_empty, "content": content}
        return described

    def _responses(self, has_parts: bool) -> Schema:
        form = _ERROR_FORMS.get(protocol_of(self.path), "Error")
        statuses = {*_ANYWHERE, *self.more, *(_OF_A_MODEL if has_parts else ()), *(_WITH_BODY if self.body else ())}
        responses = {str(status): _error(status, form) for status in sorted(statuses)}
        if self.not_ready is not None:
            either = {"anyOf": [self.not_ready, _named(form)]}
            responses["503"] = {"description": _REASONS[503], "content": {JSON: {"schema": either}}}
        if self.answer is not None:
            responses = {"200": self._success(self.answer)} | responses
        return responses

    def _success(self, answer: Schema) -> Schema:
        content = {} if self.only_streams else {JSON: {"schema": answer}}
        if self.may_stream or self.only_streams:
            # Without a schema: JSON Schema has no word for a stream, and its readers differ.
            content[EVENTS] = {}
        success: Schema = {"description": "The answer.", "content": content}
        if self.has_binary:
            content[BINARY] = {"schema": {}}
            success["headers"] = {
                HEADER: {"description": "Where the JSON ends and tensors begin.", "schema": {"type": "integer"}}
            }
        return success


def example_of(schema: Schema, example: Any) -> Schema:
    """A body with an example; Any: JSON."""
    return {"schema": schema, "example": example}


def _named(schema: str) -> Schema:
    return {"$ref": f"#/components/schemas/{schema}"}


def _parameter(name: str) -> Schema:
    return {"$ref": f"#/components/parameters/{name}"}


def _error(status: int, form: str) -> Schema:
    return {"description": _REASONS[status], "content": {JSON: {"schema": _named(form)}}}


def _operation_id(method: str, path: str) -> str:
    words = re.sub(r"[^A-Za-z0-9]+", " ", path).split()
    return "_".join([method.lower(), *words])
