"""Schemas of the bodies that a model of pydantic checks: made of those models, in one go, so that each has a name.

Which route takes which is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.openapi.operation import Schema, example_of
from gateway.rest.anthropic_requests import CountTokensRequest, MessagesRequest
from gateway.rest.openai_embeddings import EmbeddingRequest
from gateway.rest.openai_requests import ChatCompletionRequest, CompletionRequest
from gateway.rest.rerank import RerankRequest
from gateway.rest.responses_requests import ResponsesRequest
from gateway.rest.token_ids import DetokenizeRequest, TokenizeChatRequest, TokenizeTextRequest

REQUESTS: tuple[type[BaseModel], ...] = (
    ChatCompletionRequest,
    CompletionRequest,
    ResponsesRequest,
    EmbeddingRequest,
    RerankRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeTextRequest,
    TokenizeChatRequest,
    DetokenizeRequest,
)


def schemas() -> dict[str, Schema]:
    """Schemas of the models and of all that are within them, by name."""
    _, made = models_json_schema(
        [(request, "validation") for request in REQUESTS], ref_template="#/components/schemas/{model}"
    )
    found: dict[str, Schema] = made["$defs"]
    return found


def body_of(request: type[BaseModel], example: Mapping[str, object]) -> Schema:
    """A body that is a `request`, with an example."""
    return example_of({"$ref": f"#/components/schemas/{request.__name__}"}, example)
