"""OpenAI's rows and bodies. What requests hold is made of the models that check them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.openapi.operation import STRING, Operation, Schema, example_of
from gateway.rest.openai_embeddings import EmbeddingRequest
from gateway.rest.openai_requests import ChatCompletionRequest, CompletionRequest
from gateway.rest.rerank import RerankRequest

TAG = "OpenAI"

REQUESTS: tuple[type[BaseModel], ...] = (ChatCompletionRequest, CompletionRequest, EmbeddingRequest, RerankRequest)

_NUMBER_OR_NULL: Schema = {"type": ["integer", "null"]}
_USAGE: Schema = {
    "type": "object",
    "properties": {"prompt_tokens": {"type": "integer"}, "completion_tokens": {"type": "integer"}},
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
}
_TEXT_USAGE: Schema = {
    "type": "object",
    "properties": {"prompt_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}},
    "required": ["prompt_tokens", "total_tokens"],
}
_EMBEDDINGS: Schema = {
    "type": "object",
    "properties": {
        "object": {"const": "list"},
        "model": STRING,
        "usage": _TEXT_USAGE,
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "object": {"const": "embedding"},
                    "index": {"type": "integer"},
                    "embedding": {"anyOf": [{"type": "array", "items": {"type": "number"}}, STRING]},
                },
                "required": ["object", "index", "embedding"],
            },
        },
    },
    "required": ["object", "model", "usage", "data"],
}
_RERANKING: Schema = {
    "type": "object",
    "properties": {
        "id": STRING,
        "model": STRING,
        "usage": _TEXT_USAGE,
        "results": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"type": "integer"},
                    "relevance_score": {"type": ["number", "null"]},
                    "document": {"type": "object", "properties": {"text": STRING}, "required": ["text"]},
                },
                "required": ["index", "relevance_score"],
            },
        },
    },
    "required": ["id", "model", "usage", "results"],
}
_MODEL: Schema = {
    "type": "object",
    "properties": {
        "id": STRING,
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": STRING,
    },
    "required": ["id", "object", "created", "owned_by"],
}


def _completion(kind: str, choice: Schema, *required: str) -> Schema:
    properties = {
        "index": {"type": "integer"},
        "logprobs": {"type": ["object", "null"]},
        "finish_reason": {"type": ["string", "null"]},
        "stop_reason": {"type": ["string", "integer", "null"]},
    }
    entry = {
        "type": "object",
        "properties": properties | choice,
        "required": ["index", "logprobs", "finish_reason", "stop_reason", *required],
    }
    return {
        "type": "object",
        "properties": {
            "id": STRING,
            "object": {"const": kind},
            "created": {"type": "integer"},
            "model": STRING,
            "system_fingerprint": STRING,
            "choices": {"type": "array", "items": entry, "minItems": 1},
            "usage": _USAGE,
        },
        "required": ["id", "object", "created", "model", "choices", "usage"],
    }


def schemas() -> dict[str, Schema]:
    """Bodies of requests and answers, by name."""
    message = {
        "type": "object",
        "properties": {"role": {"const": "assistant"}, "content": {"type": ["string", "null"]}},
        "required": ["role", "content"],
    }
    ready = {"properties": {"name": STRING, "ready": {"type": "boolean"}}, "required": ["name", "ready"]}
    return {
        **_of_requests(),
        "ChatCompletion": _completion("chat.completion", {"message": message}, "message"),
        "Completion": _completion("text_completion", {"text": STRING}, "text"),
        "Embeddings": _EMBEDDINGS,
        "Reranking": _RERANKING,
        "Model": _MODEL,
        "ModelAndReadiness": {"allOf": [{"$ref": "#/components/schemas/Model"}, ready]},
        "ModelList": {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "object": {"const": "list"},
                        "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
                    },
                    "required": ["object", "data"],
                },
                {
                    "type": "object",
                    "properties": {"models": {"type": "array", "items": STRING}},
                    "required": ["models"],
                },
            ]
        },
    }


def operations() -> Iterator[Operation]:
    """All rows. Any: of JSON."""
    chat = {"model": "smollm2", "messages": [{"role": "user", "content": "Name the capital of France."}]}
    text = {"model": "smollm2", "prompt": "The capital of France is", "max_tokens": 8}
    yield _posted("/v1/chat/completions", "Answer a conversation", "ChatCompletion", ChatCompletionRequest, chat)
    yield _posted("/v1/completions", "Continue a text", "Completion", CompletionRequest, text)
    yield from _of_texts()
    form: Schema = {
        "name": "format",
        "in": "query",
        "description": "v1: the names only, as V1's clients expect them.",
        "schema": STRING,
    }
    models = {"$ref": "#/components/schemas/ModelList"}
    yield Operation("GET", "/v1/models", TAG, "All models", models, query=(form,))
    model = {"$ref": "#/components/schemas/ModelAndReadiness"}
    yield Operation("GET", "/v1/models/{model}", TAG, "One model, and whether it is ready", model)


def _of_texts() -> Iterator[Operation]:
    texts = {"model": "minilm", "input": ["A cat sits on a mat.", "Trains run late."]}
    yield _posted("/v1/embeddings", "Make vectors of texts", "Embeddings", EmbeddingRequest, texts, may_stream=False)
    question = {"model": "reranker", "query": "Where is the cat?", "documents": texts["input"]}
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        summary = "Put documents in the order of their relevance"
        yield _posted(path, summary, "Reranking", RerankRequest, question, may_stream=False)


def _posted(
    path: str, summary: str, answer: str, request: type[BaseModel], example: dict[str, Any], *, may_stream: bool = True
) -> Operation:
    body = example_of({"$ref": f"#/components/schemas/{request.__name__}"}, example)
    schema = {"$ref": f"#/components/schemas/{answer}"}
    return Operation("POST", path, TAG, summary, schema, body, may_stream=may_stream, more=(404, 501))


def _of_requests() -> dict[str, Schema]:
    _, made = models_json_schema(
        [(request, "validation") for request in REQUESTS], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Schema] = made["$defs"]
    return found
