"""OpenVINO GenAI behind OpenAI's `/v1/completions`. Runs in the peer's own environment: it imports nothing of ours.

The wheel has no server, so this one adds as little as it can: one thread runs the continuous-batching pipeline step by
step, and after each step hands everybody's new tokens to the event loop in one call. Text comes from `tokenizers`, one
token at a time. It takes only what the benchmark sends: one prompt, greedy, streamed, `ignore_eos`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Engine:
    """Owns the pipeline and its thread. Tokens of a request come through its queue; None ends it."""

    def __init__(
        self, model: Path, cache_gib: int, properties: dict[str, str], loop: asyncio.AbstractEventLoop
    ) -> None:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = cache_gib
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = 512
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
        self._loop = loop
        self._new: queue.SimpleQueue[tuple[list[int], int, asyncio.Queue[list[int] | None]]] = queue.SimpleQueue()
        self._running: dict[asyncio.Queue[list[int] | None], Any] = {}  # Any: the handle's type is not exported
        self._gone: queue.SimpleQueue[asyncio.Queue[list[int] | None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def add(self, token_ids: list[int], max_tokens: int) -> asyncio.Queue[list[int] | None]:
        tokens: asyncio.Queue[list[int] | None] = asyncio.Queue()
        self._new.put((token_ids, max_tokens, tokens))
        return tokens

    def cancel(self, tokens: asyncio.Queue[list[int] | None]) -> None:
        self._gone.put(tokens)

    def _run(self) -> None:
        numbers = itertools.count()
        while True:
            # Nothing to compute: wait here for the next request, without spinning.
            while not self._new.empty() or not self._running:
                token_ids, max_tokens, tokens = self._new.get()
                config = openvino_genai.GenerationConfig(max_new_tokens=max_tokens, ignore_eos=True, do_sample=False)
                prompt = openvino.Tensor(np.array([token_ids], dtype=np.int64))
                self._running[tokens] = self._pipeline.add_request(next(numbers), prompt, config)
            while not self._gone.empty():
                if (handle := self._running.pop(self._gone.get(), None)) is not None:
                    handle.cancel()
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
            if news := list(self._news()):
                self._loop.call_soon_threadsafe(_deliver, news)

    def _news(self) -> Any:
        for tokens, handle in list(self._running.items()):
            if handle.can_read():
                yield tokens, [token for output in handle.read().values() for token in output.generated_ids]
            if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                del self._running[tokens]
                yield tokens, None


def _deliver(news: list[tuple[asyncio.Queue[list[int] | None], list[int] | None]]) -> None:
    for tokens, new in news:
        tokens.put_nowait(new)


class Api:
    """The one route."""

    def __init__(self, model: Path, cache_gib: int, properties: dict[str, str]) -> None:
        self._arguments = (model, cache_gib, properties)
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._engine: Engine | None = None

    async def completions(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        token_ids = self._tokenizer.encode(body["prompt"], add_special_tokens=False).ids
        return StreamingResponse(
            self._events(token_ids, body["max_tokens"]),
            media_type="text/event-stream",
        )

    async def _events(self, token_ids: list[int], max_tokens: int) -> AsyncIterator[bytes]:
        if self._engine is None:
            self._engine = Engine(*self._arguments, asyncio.get_running_loop())
        stream, num_tokens = DecodeStream(skip_special_tokens=True), 0
        tokens = self._engine.add(token_ids, max_tokens)
        try:
            while (new := await tokens.get()) is not None:
                num_tokens += len(new)
                text = "".join(stream.step(self._tokenizer, token) or "" for token in new)
                yield _event([{"index": 0, "text": text, "finish_reason": None}])
        finally:
            self._engine.cancel(tokens)
        yield _event([{"index": 0, "text": "", "finish_reason": "length"}])
        usage = {"prompt_tokens": len(token_ids), "completion_tokens": num_tokens}
        yield _event([], usage)
        yield b"data: [DONE]\n\n"


def _event(choices: list[dict[str, object]], usage: dict[str, int] | None = None) -> bytes:
    event: dict[str, object] = {"id": "cmpl", "object": "text_completion", "choices": choices}
    return b"data: " + orjson.dumps(event | ({"usage": usage} if usage else {})) + b"\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of an OpenVINO model with its tokenizer.json")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cache-gib", type=int, default=1, help="KV cache")
    parser.add_argument("--property", action="append", default=[], metavar="NAME=VALUE", help="of OpenVINO's runtime")
    options = parser.parse_args()
    properties = dict(each.split("=", 1) for each in options.property)
    api = Api(options.model, options.cache_gib, properties)
    app = Starlette(routes=[Route("/v1/completions", api.completions, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", loop="uvloop", access_log=False)


if __name__ == "__main__":
    main()
