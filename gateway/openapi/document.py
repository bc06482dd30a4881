"""The OpenAPI 3.1 document of all public routes, put together from the rows of each protocol."""

from __future__ import annotations

from gateway.edge import MAX_TIMEOUT_S, TIMEOUT_HEADER
from gateway.openapi import anthropic, openai, requests, responses, v1, v2
from gateway.openapi.operation import STRING, Operation, Schema
from gateway.rest.v2_binary import HEADER
from mesh import context
from mesh.version import software_version

_ERRORS: dict[str, Schema] = {
    "Error": {"type": "object", "properties": {"error": STRING}, "required": ["error"], "additionalProperties": False},
    "OpenAIError": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": STRING,
                    "type": STRING,
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
                "required": ["message", "type", "param", "code"],
            }
        },
        "required": ["error"],
        "additionalProperties": False,
    },
    "AnthropicError": {
        "type": "object",
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "properties": {"type": STRING, "message": STRING},
                "required": ["type", "message"],
            },
            "request_id": {"type": ["string", "null"]},
        },
        "required": ["type", "error", "request_id"],
        "additionalProperties": False,
    },
}
_PARAMETERS: dict[str, Schema] = {
    "RequestId": {
        "name": context.REQUEST_ID_HEADER,
        "in": "header",
        "description": "Id of the request in logs, traces and records, and on the answer; replaced if unsafe.",
        "schema": STRING,
    },
    "Timeout": {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "description": "Seconds that the request may take in all.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT_S},
    },
    "HeaderLength": {
        "name": HEADER,
        "in": "header",
        "description": "Bytes of JSON at the front of the body, when tensors stand behind it.",
        "schema": {"type": "integer", "minimum": 1},
    },
}


def operations() -> list[Operation]:
    """All rows, in the order in which the page shows them."""
    return [*openai.operations(), *responses.operations(), *anthropic.operations(), *v2.operations(), *v1.operations()]


def build_document() -> Schema:
    """The document."""
    paths: dict[str, Schema] = {}
    for operation in operations():
        paths.setdefault(operation.path, {})[operation.method.lower()] = operation.to_json()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MeshServe",
            "version": software_version(),
            "summary": "Models by the Open Inference Protocol, V1, and the APIs of OpenAI and Anthropic.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {
                **_ERRORS,
                **v2.SCHEMAS,
                **v1.SCHEMAS,
                **requests.schemas(),
                **openai.schemas(),
                **responses.SCHEMAS,
                **anthropic.SCHEMAS,
            },
            "parameters": _PARAMETERS,
        },
    }
