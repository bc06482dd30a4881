"""OpenAI's rows and bodies, and those that vLLM has beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from gateway.openapi.operation import STRING, Operation, Schema, example_of
from gateway.openapi.requests import body_of
from gateway.rest.openai_embeddings import EmbeddingRequest
from gateway.rest.openai_requests import ChatCompletionRequest, CompletionRequest
from gateway.rest.rerank import RerankRequest
from gateway.rest.token_ids import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest

TAG = "OpenAI"

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
_TOKEN_IDS: Schema = {
    "type": "object",
    "properties": {
        "count": {"type": "integer"},
        "max_model_len": {"type": "integer"},
        "tokens": {"type": "array", "items": {"type": "integer"}},
        "token_strs": {"type": "null"},
    },
    "required": ["count", "max_model_len", "tokens", "token_strs"],
}
_DETOKENIZED: Schema = {"type": "object", "properties": {"prompt": STRING}, "required": ["prompt"]}
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
    """Bodies of answers, by name."""
    message = {
        "type": "object",
        "properties": {"role": {"const": "assistant"}, "content": {"type": ["string", "null"]}},
        "required": ["role", "content"],
    }
    ready = {"properties": {"name": STRING, "ready": {"type": "boolean"}}, "required": ["name", "ready"]}
    return {
        "ChatCompletion": _completion("chat.completion", {"message": message}, "message"),
        "Completion": _completion("text_completion", {"text": STRING}, "text"),
        "Embeddings": _EMBEDDINGS,
        "Reranking": _RERANKING,
        "TokenIds": _TOKEN_IDS,
        "Detokenized": _DETOKENIZED,
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
    yield from _of_tokens()
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


def _of_tokens() -> Iterator[Operation]:
    kinds = [{"$ref": f"#/components/schemas/{kind.__name__}"} for kind in (TokenizeTextRequest, TokenizeChatRequest)]
    body = example_of({"anyOf": kinds}, {"model": "smollm2", "prompt": "Paris is in France."})
    ids = {"$ref": "#/components/schemas/TokenIds"}
    yield Operation("POST", "/tokenize", TAG, "Token ids of a text or a conversation", ids, body, more=(404, 501))
    example = {"model": "smollm2", "tokens": [504, 3575]}
    summary = "The text of token ids"
    yield _posted("/detokenize", summary, "Detokenized", DetokenizeRequest, example, may_stream=False)


def _posted(
    path: str, summary: str, answer: str, request: type[BaseModel], example: dict[str, Any], *, may_stream: bool = True
) -> Operation:
    body = body_of(request, example)
    schema = {"$ref": f"#/components/schemas/{answer}"}
    return Operation("POST", path, TAG, summary, schema, body, may_stream=may_stream, more=(404, 501))
