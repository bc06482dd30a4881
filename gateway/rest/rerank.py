"""Reranking: documents in the order of their relevance to a query, as Jina, Cohere and vLLM have it.

Reference: vLLM's "Re-rank API". The query goes to the model beside each document, in one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from opentelemetry import trace
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.rest import bodies, openai_not_served, sse
from gateway.rest.bodies import Json, json_response
from gateway.rest.genai_span import PROVIDER
from gateway.rest.text_tasks import TextAnswer, TextTask, run_text_task
from gateway.rest.validation import Strict, validated
from mesh.errors import InvalidInput

MAX_DOCUMENTS = 2048
# The query is sent beside each document: a long one beside many is a message that no model would take.
MAX_QUERY_BYTES = 16 << 20
# Fields of Cohere, Jina and vLLM that would change the scores.
NOT_SERVED: openai_not_served.Table = {
    "max_chunks_per_doc": (),
    "max_tokens_per_doc": (),
    "rank_fields": (["text"],),
    "truncate_prompt_tokens": (),
}
RERANKING = TextTask(
    inputs={"query": "query", "documents": "document"},
    output="score",
    rank=1,
    is_not="is no reranker: it does not give one 'score' to a query and a document",
)


class Document(Strict):
    """A document as an object; what else is in it is ignored."""

    text: str


class RerankRequest(Strict):
    """top_n: how many results; None: all. return_documents: their texts stand beside the scores."""

    model: str
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | Document], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None

    @property
    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]


class RerankRoutes:
    """The handler of /v1/rerank and of its other names."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    async def rerank(self, request: Request) -> Response:
        """POST /v1/rerank"""
        asked = parse_rerank_request(await bodies.read_object(request))
        texts = asked.texts
        exchange = sse.exchange_of(request)
        answer = await run_text_task(
            RERANKING,
            asked.model,
            {"query": [asked.query] * len(texts), "documents": texts},
            self._dataplane,
            exchange,
        )
        _annotate(asked, answer)
        return json_response(
            {
                "id": f"rerank-{exchange.request_id}",
                "model": asked.model,
                "usage": {"prompt_tokens": answer.num_tokens, "total_tokens": answer.num_tokens},
                "results": _results(asked, texts, answer),
            }
        )


def parse_rerank_request(body: Mapping[str, Json]) -> RerankRequest:
    """The request in `body`. Raises InvalidInput."""
    openai_not_served.refuse(body, NOT_SERVED)
    try:
        asked = validated(RerankRequest, body)
    except InvalidInput as error:
        if error.field is not None and error.field.startswith("documents") and body.get("documents") is not None:
            # Of the types that one may have each has a complaint of its own; this says it in one sentence.
            raise InvalidInput(
                f"'documents' must be a list of 1 to {MAX_DOCUMENTS} texts or objects with a 'text'", field="documents"
            ) from None
        raise
    query_bytes = len(asked.query.encode()) * len(asked.documents)
    if query_bytes > MAX_QUERY_BYTES:
        raise InvalidInput(
            f"'query' takes {query_bytes} bytes beside {len(asked.documents)} documents; at most {MAX_QUERY_BYTES}",
            field="query",
        )
    return asked


def _results(asked: RerankRequest, texts: list[str], answer: TextAnswer) -> list[dict[str, Json]]:
    """The most relevant first; of equal scores, the earlier document."""
    order = np.argsort(-answer.values, kind="stable")[: asked.top_n]
    results: list[dict[str, Json]] = []
    for index in order.tolist():
        result: dict[str, Json] = {"index": index, "relevance_score": answer.values[index]}
        if asked.return_documents is not False:
            result["document"] = {"text": texts[index]}
        results.append(result)
    return results


def _annotate(asked: RerankRequest, answer: TextAnswer) -> None:
    """As for embeddings: the semantic conventions have no word for reranking."""
    span = trace.get_current_span()
    span.set_attribute("gen_ai.operation.name", "rerank")
    span.set_attribute("gen_ai.provider.name", PROVIDER)
    span.set_attribute("gen_ai.request.model", asked.model)
    span.set_attribute("gen_ai.usage.input_tokens", answer.num_tokens)
