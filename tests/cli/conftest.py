"""A gateway for the command's tests: a real HTTP server on a free port that speaks the gateway's protocols."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from cli.__main__ import main

IRIS = {
    "name": "iris",
    "versions": ["1"],
    "platform": "sklearn_skops",
    "inputs": [{"name": "input", "datatype": "FP64", "shape": [-1, 4]}],
    "outputs": [],
}
SMOLLM2 = {"name": "smollm2", "versions": ["1"], "platform": "meshserve_llm", "inputs": [], "outputs": []}


@dataclass
class FakeGateway:
    """What it answers with, and the bodies it was asked with."""

    url: str = ""
    index: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"name": "smollm2", "version": "1", "state": "READY", "reason": ""},
            {"name": "iris", "version": "1", "state": "READY", "reason": ""},
        ]
    )
    chat_parts: list[str] = field(default_factory=lambda: ["Par", "is."])
    chat_error: tuple[int, dict[str, Any]] | None = None
    is_chat_broken_off: bool = False
    explanations: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v2/repository/index", self._index, methods=["POST"]),
                Route("/v2/models/{model}", self._metadata),
                Route("/v2/models/{model}/infer", self._infer, methods=["POST"]),
                Route("/v1/models/{model}:explain", self._explain, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _index(self, request: Request) -> Response:
        return JSONResponse(self.index)

    async def _metadata(self, request: Request) -> Response:
        metadata = {"iris": IRIS, "smollm2": SMOLLM2}.get(request.path_params["model"])
        if metadata is None:
            return JSONResponse({"error": "model 'nope' is not deployed; deployed: iris, smollm2"}, 404)
        return JSONResponse(metadata)

    async def _infer(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        rows = self.bodies[-1]["inputs"][0]["shape"][0]
        outputs = [
            {"name": "label", "datatype": "INT64", "shape": [rows], "data": list(range(rows))},
            {"name": "probabilities", "datatype": "FP64", "shape": [rows, 2], "data": [0.25, 0.75] * rows},
        ]
        return JSONResponse({"model_name": "iris", "model_version": "1", "outputs": outputs})

    async def _explain(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        return JSONResponse({"explanations": self.explanations})

    async def _chat(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        if self.chat_error is not None:
            return JSONResponse(self.chat_error[1], self.chat_error[0])
        events = [json.dumps({"choices": [{"delta": {"content": part}}]}) for part in self.chat_parts]
        if not self.is_chat_broken_off:
            events.append("[DONE]")
        body = "".join(f"data: {event}\n\n" for event in events)
        return StreamingResponse(iter([body]), media_type="text/event-stream")


@pytest.fixture
def fake_gateway() -> Iterator[FakeGateway]:
    gateway = FakeGateway()
    server = uvicorn.Server(uvicorn.Config(gateway.app(), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    gateway.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    yield gateway
    server.should_exit = True
    thread.join(timeout=10)


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


RunCli = Callable[..., Result]


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Runs the command line in this process."""

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capsys.readouterr()
        return Result(int(ended.value.code or 0), captured.out, captured.err)

    return run
