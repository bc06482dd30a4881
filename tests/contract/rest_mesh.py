"""A gateway in front of the predictor's own servicer with identity models: for what REST promises as a whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gateway.__main__ import Gateway
from gateway.settings import GatewaySettings
from mesh.testing import serve_on_free_port
from mesh.v1.explain_pb2_grpc import add_ExplainServiceServicer_to_server
from mesh.v1.language_model_pb2_grpc import add_LanguageModelServicer_to_server
from predictor.loader import ModelSpec
from predictor.repository import ModelRepository
from predictor.servicer import OpenInferenceServicer, add_open_inference_to_server
from tests.gateway.fake_language_model import FakeLanguageModel
from tests.gateway.fake_mesh import FakeExplainer
from tests.predictor.fake_runtime import FakeLoader, spec

T = TypeVar("T")

NAMES = ("identity", "loose", "broken")


def deployment(name: str, model_format: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "predictor": {"model_format": model_format, "storage_uri": f"file:///{name}"}, **more}


DEPLOYMENTS = [
    deployment("identity", "sklearn", explainer={"method": "shapley"}),
    deployment("loose", "sklearn", labels={"json-non-finite": "allow"}),
    deployment("broken", "sklearn"),
    deployment("absent", "sklearn"),
    deployment("chat", "llm", explainer={}),
]


async def repository() -> ModelRepository:
    async def on_change(changed: ModelSpec, is_ready: bool) -> None:
        pass

    loader = FakeLoader()
    loader.failures["broken"] = RuntimeError("a bug in /secret/path")
    made = ModelRepository([spec(name) for name in NAMES], loader, on_change)
    await made.load_all()
    return made


@asynccontextmanager
async def rest_mesh(folder: Path, **changes: Any) -> AsyncIterator[str]:
    """The gateway's URL. changes: to its settings."""
    inference = OpenInferenceServicer(await repository(), "1.2.3")
    async with AsyncExitStack() as stack:
        predictor = await stack.enter_async_context(serve_on_free_port((add_open_inference_to_server, inference)))
        language_model = await stack.enter_async_context(
            serve_on_free_port((add_LanguageModelServicer_to_server, FakeLanguageModel()))
        )
        explainer = await stack.enter_async_context(
            serve_on_free_port((add_ExplainServiceServicer_to_server, FakeExplainer()))
        )
        predictors = [
            {"address": predictor, "models": list(NAMES)},
            {"address": language_model, "models": ["chat"]},
        ]
        endpoints = folder / "endpoints.yaml"
        described = {"endpoints": {"predictor": predictors, "explainer": [explainer]}, "deployments": DEPLOYMENTS}
        endpoints.write_text(yaml.safe_dump(described))
        ports = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "drain_s": 0, "grace_s": 2}
        gateway = Gateway(GatewaySettings(**ports, endpoints=endpoints, state_dir=folder / "state", **changes))
        await gateway.start()
        stack.push_async_callback(gateway.server.close)
        yield f"http://{gateway.http.address}"


def rest_mesh_in_thread(folder: Path, **changes: Any) -> AbstractContextManager[str]:
    """As `rest_mesh`, for clients that block."""
    return in_thread(rest_mesh(folder, **changes))


@contextmanager
def in_thread(opened: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """What `opened` gives, which lives on an event loop of its own meanwhile."""
    values: list[T] = []
    is_up, end = threading.Event(), asyncio.Event()

    async def serve() -> None:
        try:
            async with opened as value:
                values.append(value)
                is_up.set()
                await end.wait()
        finally:
            is_up.set()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert is_up.wait(30)
        yield values[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(30)
        loop.close()
