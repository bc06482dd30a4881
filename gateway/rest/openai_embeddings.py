"""OpenAI's embeddings, over any model that makes a vector of a text. Reference: the OpenAI API's "Embeddings" page.

Numbers go from the tensor into the body as they are: as base64 of float32, or as JSON that no Python object stands for.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import numpy as np
import orjson
from opentelemetry import trace
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.rest import bodies, openai_not_served, sse
from gateway.rest.bodies import Json
from gateway.rest.genai_span import PROVIDER
from gateway.rest.text_tasks import TextAnswer, TextTask, run_text_task
from gateway.rest.validation import Strict, validated
from mesh.errors import InvalidInput
from mesh.tensors import Array

MAX_INPUTS = 2048
# vLLM's fields that would change the vectors.
NOT_SERVED: openai_not_served.Table = {
    "add_special_tokens": (True,),
    "messages": (),
    "normalize": (),
    "truncate_prompt_tokens": (),
}
EMBEDDING = TextTask(
    inputs={"input": "text"}, output="embedding", rank=2, is_not="makes no embeddings: it has no output 'embedding'"
)

# More numbers than this are written in a thread: the event loop serves others meanwhile.
_MANY_NUMBERS = 1 << 16

_Text = Annotated[str, Field(min_length=1)]


class EmbeddingRequest(Strict):
    """`user` and whatever is not here is ignored."""

    model: str
    input: _Text | Annotated[list[_Text], Field(min_length=1, max_length=MAX_INPUTS)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddingRoutes:
    """The handler of /v1/embeddings."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    async def embeddings(self, request: Request) -> Response:
        """POST /v1/embeddings"""
        asked = parse_embedding_request(await bodies.read_object(request))
        answer = await run_text_task(
            EMBEDDING, asked.model, {"input": asked.texts}, self._dataplane, sse.exchange_of(request)
        )
        vectors = _shortened(answer.values, asked.dimensions)
        _annotate(asked, answer, vectors.shape[1])
        if vectors.size > _MANY_NUMBERS:
            return await asyncio.to_thread(_response, asked, vectors, answer.num_tokens)
        return _response(asked, vectors, answer.num_tokens)


def parse_embedding_request(body: Mapping[str, Json]) -> EmbeddingRequest:
    """The request in `body`. Raises InvalidInput whose `field` is OpenAI's `param`."""
    openai_not_served.refuse(body, NOT_SERVED)
    given = body.get("input")
    if isinstance(given, list) and given and isinstance(given[0], int | list):
        raise InvalidInput(
            "'input' holds token ids, which are those of another model's vocabulary: send texts "
            "(LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))",
            field="input",
        )
    try:
        return validated(EmbeddingRequest, body)
    except InvalidInput as error:
        if error.field is not None and error.field.startswith("input") and given is not None:
            # Of the types that it may have each has a complaint of its own; this says it in one sentence.
            raise InvalidInput(
                f"'input' must be a text or a list of 1 to {MAX_INPUTS} texts, and no text may be empty", field="input"
            ) from None
        raise


def _shortened(vectors: Array, dimensions: int | None) -> Array:
    """The first `dimensions` numbers of each vector, normalized again (Kusupati et al., 2022, "Matryoshka")."""
    if dimensions is None:
        return vectors
    if dimensions > vectors.shape[1]:
        raise InvalidInput(
            f"'dimensions' is {dimensions}; the model's vectors have {vectors.shape[1]}", field="dimensions"
        )
    short = vectors[:, :dimensions]
    lengths = np.linalg.norm(short, axis=1, keepdims=True)
    return np.ascontiguousarray(short / np.maximum(lengths, 1e-12), dtype=np.float32)


def _response(asked: EmbeddingRequest, vectors: Array, num_tokens: int) -> Response:
    write = _WRITERS[asked.encoding_format or "float"]
    body = {
        "object": "list",
        # One dump for each vector, so that a thread gives way to the event loop between them.
        "data": [
            {"object": "embedding", "index": index, "embedding": write(vector)} for index, vector in enumerate(vectors)
        ],
        "model": asked.model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    return Response(orjson.dumps(body), media_type="application/json")


_WRITERS: dict[str, Callable[[Array], Json]] = {
    "float": lambda vector: orjson.Fragment(orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)),
    "base64": lambda vector: base64.b64encode(vector.tobytes()).decode("ascii"),
}


def _annotate(asked: EmbeddingRequest, answer: TextAnswer, num_dimensions: int) -> None:
    """GenAI attributes of OpenTelemetry's semantic conventions."""
    span = trace.get_current_span()
    span.set_attribute("gen_ai.operation.name", "embeddings")
    span.set_attribute("gen_ai.provider.name", PROVIDER)
    span.set_attribute("gen_ai.request.model", asked.model)
    span.set_attribute("gen_ai.embeddings.dimension.count", num_dimensions)
    span.set_attribute("gen_ai.usage.input_tokens", answer.num_tokens)
