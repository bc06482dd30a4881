"""ModelStreamInfer: one stream of the client, and behind it one stream to the first hop of each model it names.

Each message is routed by its own model name. Answers of one model keep their order; those of several models come as
they are ready. A message that cannot be routed is answered with `error_message`, and the stream goes on; when a next
hop's stream fails, its error ends the client's stream, since nobody can say which of the messages it had answered. When
the client closes its side, the answers still due come, and then the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from gateway import wire
from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from mesh.errors import InvalidInput, MeshError, Unavailable
from mesh.oip import open_inference_pb2 as oip

MAX_MODELS = 64
MAX_AHEAD = 16

_ANSWER_FIELD = oip.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER


class InferStream:
    """One client's stream. Owns the tasks that read and write the streams behind it."""

    def __init__(self, dataplane: Dataplane, method: str, exchange: Exchange) -> None:
        self._dataplane = dataplane
        self._method = method
        self._exchange = exchange
        self._hops: dict[str, _Hop] = {}
        self._tasks: list[asyncio.Task[None]] = []
        # Answers, the error that ends all, and None for each task that has ended.
        self._outbox: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(MAX_AHEAD)

    async def answers(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The answers to `requests`. Closing it ends all streams behind it."""
        self._spawn(self._read(requests))
        try:
            ended = 0
            while ended < len(self._tasks):
                item = await self._outbox.get()
                if item is None:
                    ended += 1
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: AsyncGenerator[bytes, None]) -> None:
        async def run() -> None:
            end: Exception | None = None
            try:
                async with aclosing(work):
                    async for answer in work:
                        await self._outbox.put(answer)
            except Exception as error:
                # The top of a task: whatever it is, the client's stream ends with it.
                end = error
            await self._outbox.put(end)

        self._tasks.append(asyncio.create_task(run()))

    async def _read(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Send each message where it belongs; yields the answers to those that belong nowhere."""
        async for request in requests:
            header = wire.Header("", "", "")
            try:
                header = wire.read_header(request, has_id=True)
                hop = self._hop_of(header.model_name)
            except MeshError as error:
                yield _failure(header, error)
                continue
            self._exchange.add_infer(request, None)
            await hop.inbox.put(request)
        for hop in self._hops.values():
            await hop.inbox.put(None)

    def _hop_of(self, model_name: str) -> _Hop:
        hop = self._hops.get(model_name)
        if hop is None:
            # The record of a stream that names several models is the first one's.
            is_first = self._exchange.deployment is None
            self._dataplane.deployment(model_name, self._exchange if is_first else None)
            if len(self._hops) == MAX_MODELS:
                raise InvalidInput(f"one stream names more than {MAX_MODELS} models", field="model_name")
            hop = self._hops[model_name] = _Hop()
            self._spawn(self._answers_of(model_name, hop))
        return hop

    async def _answers_of(self, model_name: str, hop: _Hop) -> AsyncGenerator[bytes, None]:
        answers = self._dataplane.exchange_stream(self._method, model_name, hop.feed)
        async with aclosing(answers):
            async for answer in answers:
                self._note(answer)
                yield answer

    def _note(self, answer: bytes) -> None:
        for number, _, start, end in wire.fields(answer):
            if number == _ANSWER_FIELD:
                self._exchange.add_infer(None, answer[start:end])


class _Hop:
    """What is on its way to one model."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_AHEAD)
        self._has_sent = False

    def feed(self) -> AsyncIterator[bytes]:
        """The messages, up to the None.

        Raises Unavailable for a second feed, after a lost replica, unless none went out before it.
        """
        if self._has_sent:
            raise Unavailable("the replica was lost after requests had gone to it")
        return self._messages()

    async def _messages(self) -> AsyncIterator[bytes]:
        while (request := await self.inbox.get()) is not None:
            self._has_sent = True
            yield request


def _failure(header: wire.Header, error: MeshError) -> bytes:
    answer = oip.ModelStreamInferResponse(error_message=error.message)
    answer.infer_response.model_name = header.model_name
    answer.infer_response.id = header.request_id
    return answer.SerializeToString()
