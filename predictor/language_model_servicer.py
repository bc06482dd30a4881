"""mesh.v1.LanguageModel in front of the model repository: the leaf of the chain that computes.

It takes text and tokens. Conversations are rendered by the transformer, which has the chat template from
DescribeModel; here they are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import grpc.aio

from mesh.context import current
from mesh.errors import InvalidInput, Overloaded
from mesh.load_meter import LoadMeter
from mesh.request_hints import estimated_tokens
from mesh.v1 import language_model_pb2 as lm
from mesh.v1 import language_model_pb2_grpc as lm_grpc
from predictor import generation_messages as messages
from predictor.llm.outputs import ScoreOutput
from predictor.llm.sequence import ScoreRequest
from predictor.loader import LoadedModel
from predictor.repository import ModelRepository
from predictor.runtimes.language_model import LanguageModelRuntime

MAX_SCORE_ITEMS = 1024

# Score calls at the same time; the items of each wait for the engine.
MAX_RUNNING_SCORES = 64

Context = grpc.aio.ServicerContext[Any, Any]
Request = lm.GenerateRequest | lm.ScoreRequest | lm.TokenizeRequest | lm.DetokenizeRequest | lm.DescribeModelRequest


class LanguageModelServicer(lm_grpc.LanguageModelServicer):
    """`address` gives host:port of this replica, for GenerationStart. `load` is told the tokens of each call."""

    def __init__(self, repository: ModelRepository, address: Callable[[], str], load: LoadMeter) -> None:
        self._repository = repository
        self._address = address
        self._load = load
        self._num_running_scores = 0

    async def Generate(
        self, request: lm.GenerateRequest, context: Context
    ) -> AsyncGenerator[lm.GenerateResponse, None]:
        async with self._hold(request) as (model, runtime):
            generation = await runtime.make_request(
                await _prompt(runtime, request.WhichOneof("prompt"), request, "prompt"),
                messages.options_of(request.sampling),
                continue_from=tuple(request.continue_from),
                priority=_priority(request.priority),
                cache_salt=request.cache_salt,
            )
            prompt_text = runtime.decode(generation.prompt_token_ids) if request.echo else None
            start: lm.GenerationStart | None = messages.start_message(model, generation, self._address(), prompt_text)
            repeats = bool(request.repeat_continued and request.continue_from)
            async with aclosing(runtime.generate(generation)) as outputs:
                async for output in outputs:
                    if repeats:
                        # Not before there is an output: until then a request may be refused.
                        has_ended = not output.token_ids and output.finish_reason is not None
                        yield messages.repeated_message(generation, start, runtime.token_bytes, has_ended=has_ended)
                        start, repeats = None, False
                    yield messages.output_message(output, start, runtime.token_bytes)
                    start = None

    async def Score(self, request: lm.ScoreRequest, context: Context) -> lm.ScoreResponse:
        if not 1 <= len(request.items) <= MAX_SCORE_ITEMS:
            raise InvalidInput(
                f"items has {len(request.items)} entries; it takes 1 to {MAX_SCORE_ITEMS}", field="items"
            )
        with self._count_score():
            async with self._hold(request) as (model, runtime):
                items = [await _score_request(runtime, request, index) for index in range(len(request.items))]
                outputs = await _all_or_none([runtime.score(item) for item in items])
                return messages.score_message(model, items, outputs)

    async def Tokenize(self, request: lm.TokenizeRequest, context: Context) -> lm.TokenizeResponse:
        async with self._hold(request) as (_, runtime):
            return lm.TokenizeResponse(token_ids=await _prompt(runtime, request.WhichOneof("input"), request, "input"))

    async def Detokenize(self, request: lm.DetokenizeRequest, context: Context) -> lm.DetokenizeResponse:
        async with self._hold(request) as (_, runtime):
            return lm.DetokenizeResponse(text=await asyncio.to_thread(runtime.decode, list(request.token_ids)))

    async def DescribeModel(self, request: lm.DescribeModelRequest, context: Context) -> lm.DescribeModelResponse:
        async with self._hold(request) as (model, runtime):
            return messages.description_message(model, runtime.description)

    @contextmanager
    def _count_score(self) -> Iterator[None]:
        if self._num_running_scores >= MAX_RUNNING_SCORES:
            raise Overloaded(f"{self._num_running_scores} Score calls are running; no more are taken at the same time")
        self._num_running_scores += 1
        try:
            yield
        finally:
            self._num_running_scores -= 1

    @asynccontextmanager
    async def _hold(self, request: Request) -> AsyncIterator[tuple[LoadedModel, LanguageModelRuntime]]:
        async with self._repository.hold(request.model_name, request.model_version) as model:
            if not isinstance(model.runtime, LanguageModelRuntime):
                raise InvalidInput(f"model '{request.model_name}' is no language model", field="model_name")
            with self._load.work(
                estimated_tokens(request) if isinstance(request, lm.GenerateRequest | lm.ScoreRequest) else 1.0
            ):
                yield model, model.runtime


def _priority(asked: int) -> int:
    """What the request itself asks for, else what came with it as a header."""
    request = current()
    return asked or (request.priority if request is not None else 0)


async def _prompt(
    runtime: LanguageModelRuntime,
    kind: str | None,
    source: lm.GenerateRequest | lm.TokenizeRequest | lm.ScoreRequest.Item,
    field: str,
) -> tuple[int, ...]:
    """Token ids of the text, tokens or messages that `source` holds; `kind` says which is set."""
    if kind == "text":
        return await runtime.encode_prompt(source.text)
    if kind == "token_ids" and not isinstance(source, lm.TokenizeRequest):
        return tuple(source.token_ids.ids)
    if kind == "messages":
        raise InvalidInput(
            f"{field} has messages: the transformer renders them into text, and this predictor has none in front of it",
            field=field,
        )
    raise InvalidInput(f"{field} is not set; give text or token_ids", field=field)


async def _score_request(runtime: LanguageModelRuntime, request: lm.ScoreRequest, index: int) -> ScoreRequest:
    item = request.items[index]
    kind = item.WhichOneof("target")
    if kind is None:
        raise InvalidInput(f"items[{index}].target is not set; give target_text or target_token_ids", field="items")
    target = await runtime.encode(item.target_text) if kind == "target_text" else tuple(item.target_token_ids.ids)
    return ScoreRequest(
        request_id=f"score-{index}",
        prefix_token_ids=await _prompt(runtime, item.WhichOneof("prefix"), item, f"items[{index}].prefix"),
        target_token_ids=target,
        priority=_priority(request.priority),
        cache_salt=request.cache_salt,
    )


async def _all_or_none(calls: list[Any]) -> list[ScoreOutput]:
    """Results of all coroutines, in order; when one fails the others are cancelled and its error is raised."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
