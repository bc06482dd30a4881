"""OpenVINO GenAI behind OpenAI's `/v1/completions`. Runs in the peer's own environment: it imports nothing of ours.

The wheel has no server, so this one adds as little as it can: a process that does nothing but step the
continuous-batching pipeline, and this one, which speaks HTTP. Two processes, because the pipeline's `step` keeps the
interpreter's lock: in one, answers would wait for steps. After a step everybody's new tokens go over in one message.
Text comes from `tokenizers`, one token at a time. It takes only what the benchmark sends: one prompt, greedy, streamed,
`ignore_eos`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# To the engine: (request, prompt, length), or (request, None, 0) to cancel. From it: new tokens by request; None: done.
Command = tuple[int, list[int] | None, int]
News = list[tuple[int, list[int] | None]]

MAX_BATCHED_TOKENS = 512


def run_engine(model: Path, cache_gib: int, pipe: Connection) -> None:
    """The engine's process: obeys, steps, tells, until it is killed with its parent."""
    import numpy as np
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = cache_gib
    scheduler.enable_prefix_caching = True
    scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {})
    running: dict[int, Any] = {}  # Any: the handle's type is not exported
    while True:
        # With nothing to compute, wait here for the next command, without spinning.
        while not running or pipe.poll():
            number, token_ids, max_tokens = pipe.recv()
            if token_ids is not None:
                config = openvino_genai.GenerationConfig(max_new_tokens=max_tokens, ignore_eos=True, do_sample=False)
                prompt = openvino.Tensor(np.array([token_ids], dtype=np.int64))
                running[number] = pipeline.add_request(number, prompt, config)
            elif (handle := running.pop(number, None)) is not None:
                handle.cancel()
        if pipeline.has_non_finished_requests():
            pipeline.step()
        news: News = []
        for number, handle in list(running.items()):
            if handle.can_read():
                news.append((number, [t for output in handle.read().values() for t in output.generated_ids]))
            if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                del running[number]
                news.append((number, None))
        if news:
            pipe.send(news)


class Api:
    """The one route. `pipe` leads to the engine."""

    def __init__(self, tokenizer: Tokenizer, pipe: Connection) -> None:
        self._tokenizer = tokenizer
        self._pipe = pipe
        self._numbers = itertools.count()
        self._tokens: dict[int, asyncio.Queue[list[int] | None]] = {}

    @asynccontextmanager
    async def listening(self, app: Starlette) -> AsyncIterator[None]:
        del app
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._hear)
        yield
        loop.remove_reader(self._pipe.fileno())

    async def completions(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        token_ids = self._tokenizer.encode(body["prompt"], add_special_tokens=False).ids
        return StreamingResponse(self._events(token_ids, body["max_tokens"]), media_type="text/event-stream")

    async def _events(self, token_ids: list[int], max_tokens: int) -> AsyncIterator[bytes]:
        number, stream, num_tokens = next(self._numbers), DecodeStream(skip_special_tokens=True), 0
        tokens = self._tokens[number] = asyncio.Queue()
        command: Command = (number, token_ids, max_tokens)
        self._pipe.send(command)
        try:
            while (new := await tokens.get()) is not None:
                num_tokens += len(new)
                text = "".join(stream.step(self._tokenizer, token) or "" for token in new)
                yield _event([{"index": 0, "text": text, "finish_reason": None}])
        finally:
            del self._tokens[number]
            self._pipe.send((number, None, 0))
        yield _event([{"index": 0, "text": "", "finish_reason": "length"}])
        yield _event([], {"prompt_tokens": len(token_ids), "completion_tokens": num_tokens})
        yield b"data: [DONE]\n\n"

    def _hear(self) -> None:
        news: News = self._pipe.recv()
        for number, new in news:
            if number in self._tokens:
                self._tokens[number].put_nowait(new)


def _event(choices: list[dict[str, object]], usage: dict[str, int] | None = None) -> bytes:
    event: dict[str, object] = {"id": "cmpl", "object": "text_completion", "choices": choices}
    return b"data: " + orjson.dumps(event | ({"usage": usage} if usage else {})) + b"\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of an OpenVINO model with its tokenizer.json")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cache-gib", type=int, default=1, help="KV cache")
    options = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    pipe, engines_end = spawn.Pipe()
    spawn.Process(target=run_engine, args=(options.model, options.cache_gib, engines_end), daemon=True).start()
    engines_end.close()
    api = Api(Tokenizer.from_file(str(options.model / "tokenizer.json")), pipe)
    routes = [Route("/v1/completions", api.completions, methods=["POST"])]
    app = Starlette(routes=routes, lifespan=api.listening)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", loop="uvloop", access_log=False)


if __name__ == "__main__":
    main()
