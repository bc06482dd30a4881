"""All HTTP routes of the gateway, in one table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.dataplane import Dataplane
from gateway.openapi.pages import PageRoutes
from gateway.repository import RepositoryControl
from gateway.rest.anthropic import AnthropicRoutes
from gateway.rest.openai import OpenAIRoutes
from gateway.rest.openai_embeddings import EmbeddingRoutes
from gateway.rest.rerank import RerankRoutes
from gateway.rest.responses import ResponsesRoutes
from gateway.rest.sse import exchange_of
from gateway.rest.token_ids import TokenRoutes
from gateway.rest.v1 import V1Routes
from gateway.rest.v2 import V2Routes
from gateway.rest.v2_generate import V2GenerateRoutes
from gateway.rest.v2_infer import V2InferRoutes
from gateway.rest.v2_triton import TritonRoutes

Handler = Callable[[Request], Awaitable[Response]]


def build_routes(dataplane: Dataplane, repository: RepositoryControl) -> list[Route]:
    """The routes, the ones that requests take most often first."""
    openai, v1 = OpenAIRoutes(dataplane), V1Routes(dataplane)
    anthropic, tokens, pages = AnthropicRoutes(dataplane), TokenRoutes(dataplane), PageRoutes()
    v2, v2_infer, v2_generate = V2Routes(dataplane, repository), V2InferRoutes(dataplane), V2GenerateRoutes(dataplane)
    return [
        _post("/v1/chat/completions", _prediction(openai.chat_completions)),
        _post("/v1/completions", _prediction(openai.completions)),
        _post("/v1/responses", _prediction(ResponsesRoutes(dataplane).create)),
        _post("/v1/messages", _prediction(anthropic.messages)),
        _post("/v1/messages/count_tokens", anthropic.count_tokens),
        _post("/v1/embeddings", _prediction(EmbeddingRoutes(dataplane).embeddings)),
        # vLLM's three names of it: Jina's, Cohere's, and the one without a version.
        *(_post(path, _prediction(RerankRoutes(dataplane).rerank)) for path in ("/v1/rerank", "/v2/rerank", "/rerank")),
        *_of_model("POST", "/infer", _prediction(v2_infer.infer)),
        *_of_model("POST", "/generate", _prediction(v2_generate.generate)),
        *_of_model("POST", "/generate_stream", _prediction(v2_generate.generate_stream)),
        _post("/v1/models/{model}:predict", _prediction(v1.predict)),
        _post("/v1/models/{model}:explain", _prediction(v1.explain)),
        _post("/tokenize", tokens.tokenize),
        _post("/detokenize", tokens.detokenize),
        _get("/v1/models", openai.list_models),
        _get("/v1/models/{model}", openai.get_model),
        _get("/v2", v2.metadata),
        _get("/v2/health/live", v2.live),
        _get("/v2/health/ready", v2.ready),
        _get("/v2/models", v2.list_models),
        _get("/v2/models/stats", v2.all_statistics),
        *_of_model("GET", "", v2.model_metadata),
        *_of_model("GET", "/ready", v2.model_ready),
        *_of_model("GET", "/config", v2.model_config),
        *_of_model("GET", "/stats", v2.model_statistics),
        _post("/v2/repository/index", v2.repository_index),
        _post("/v2/repository/models/{model}/load", v2.load),
        _post("/v2/repository/models/{model}/unload", v2.unload),
        *_triton_routes(),
        _get("/", v1.alive),
        _get("/openapi.json", pages.document),
        _get("/docs", pages.page),
    ]


def _triton_routes() -> list[Route]:
    triton = TritonRoutes()
    routes = [
        Route(path, handler, methods=["GET", "POST"])
        for path, handler in (
            ("/v2/logging", triton.log_settings),
            ("/v2/trace/setting", triton.trace_settings),
            ("/v2/models/{model}/trace/setting", triton.trace_settings),
        )
    ]
    for kind in ("system", "cuda"):
        for path in (f"/v2/{kind}sharedmemory", f"/v2/{kind}sharedmemory/region/{{region}}"):
            routes.append(_get(f"{path}/status", triton.shared_memory_status))
            routes.append(_post(f"{path}/unregister", triton.shared_memory))
        routes.append(_post(f"/v2/{kind}sharedmemory/region/{{region}}/register", triton.shared_memory))
    return routes


def _get(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["GET"])


def _post(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["POST"])


def _of_model(method: str, suffix: str, handler: Handler) -> list[Route]:
    """A route with and one without a version."""
    paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [Route(path + suffix, handler, methods=[method]) for path in paths]


def _prediction(handler: Handler) -> Handler:
    """Mark what the handler answers as a prediction: it leaves a record, also when it fails."""

    async def predict(request: Request) -> Response:
        exchange_of(request).is_prediction = True
        return await handler(request)

    return predict
