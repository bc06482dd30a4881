"""A gateway, put together as the process does it, in front of fake services, on free ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import openai
import orjson
import pytest
import yaml

from gateway.__main__ import Gateway
from gateway.settings import GatewaySettings
from mesh.channel import open_channel
from mesh.oip.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.testing import serve_on_free_port
from mesh.v1.explain_pb2_grpc import add_ExplainServiceServicer_to_server
from mesh.v1.language_model_pb2_grpc import add_LanguageModelServicer_to_server
from tests.gateway.fake_language_model import FakeLanguageModel
from tests.gateway.fake_mesh import FakeExplainer, FakeInference

DEPLOYMENTS = [
    {"name": "chat", "predictor": {"model_format": "llm", "storage_uri": "file:///chat"}, "explainer": {}},
    {
        "name": "echo",
        "predictor": {"model_format": "sklearn", "storage_uri": "file:///echo"},
        "explainer": {"method": "shapley"},
    },
    {
        "name": "loose",
        "predictor": {"model_format": "sklearn", "storage_uri": "file:///loose"},
        "labels": {"json-non-finite": "allow"},
    },
    {"name": "pair", "predictor": {"model_format": "sklearn", "storage_uri": "file:///pair"}},
    {"name": "absent", "predictor": {"model_format": "sklearn", "storage_uri": "file:///absent"}},
]


@dataclass
class Door:
    """A running gateway, and what is behind it."""

    gateway: Gateway
    http: httpx.AsyncClient
    channel: grpc.aio.Channel
    model: FakeLanguageModel
    inference: FakeInference
    explainer: FakeExplainer
    log_file: Path

    @property
    def url(self) -> str:
        return f"http://{self.gateway.http.address}"

    async def records(self, count: int = 1) -> list[dict[str, Any]]:
        """The records of the prediction log, once there are `count`."""

        def lines() -> list[bytes]:
            return self.log_file.read_bytes().splitlines() if self.log_file.exists() else []

        async def are_there() -> bool:
            return len(lines()) >= count

        await eventually(are_there)
        return [orjson.loads(line) for line in lines()]


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 10) -> None:
    """Return once the condition is true; fail when it does not become so in time."""
    async with asyncio.timeout(timeout_s):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def fake_mesh(
    folder: Path, model: FakeLanguageModel, inference: FakeInference, explainer: FakeExplainer
) -> AsyncIterator[Path]:
    """The services behind a gateway; gives the file of their endpoints."""
    async with AsyncExitStack() as stack:
        predictor = await stack.enter_async_context(
            serve_on_free_port(
                (add_GRPCInferenceServiceServicer_to_server, inference),
                (add_LanguageModelServicer_to_server, model),
            )
        )
        explains = await stack.enter_async_context(
            serve_on_free_port((add_ExplainServiceServicer_to_server, explainer))
        )
        endpoints = folder / "endpoints.yaml"
        served = {"address": predictor, "models": ["chat", "echo", "loose", "pair"]}
        endpoints.write_text(
            yaml.safe_dump({"endpoints": {"predictor": [served], "explainer": [explains]}, "deployments": DEPLOYMENTS})
        )
        yield endpoints


@asynccontextmanager
async def open_door(tmp_path: Path, **changes: Any) -> AsyncIterator[Door]:
    """A gateway with `changes` to the settings of tests."""
    model, inference, explainer = FakeLanguageModel(), FakeInference(), FakeExplainer()
    async with AsyncExitStack() as stack:
        endpoints = await stack.enter_async_context(fake_mesh(tmp_path, model, inference, explainer))
        settings = GatewaySettings(
            **{
                "http_port": 0,
                "grpc_port": 0,
                "metrics_port": 0,
                "drain_s": 0,
                "grace_s": 2,
                "hold_s": 0,
                "endpoints": endpoints,
                "state_dir": tmp_path / "state",
                **changes,
            }
        )
        gateway = Gateway(settings)
        await gateway.start()
        stack.push_async_callback(gateway.server.close)
        channel = await stack.enter_async_context(open_channel(gateway.server.address))
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://{gateway.http.address}", timeout=10, trust_env=False)
        )
        yield Door(gateway, http, channel, model, inference, explainer, settings.prediction_log_path)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway with the settings of tests."""
    async with open_door(tmp_path) as opened:
        yield opened


@pytest.fixture
async def client(door: Door) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's own client of that gateway."""
    async with openai.AsyncOpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0, timeout=10) as made:
        yield made
