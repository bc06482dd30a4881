"""ModelStreamInfer of a hop that runs no model: one stream of the caller, behind it one stream for each model it names.

Each message is routed by the model and version that it names itself, and no version is a version of its own here.
Answers of one of these keep their order; those of several come as they are ready. A message that cannot be routed, or
whose model nobody serves now, is answered with an error message, and the stream goes on; when a stream behind fails
later, its error ends the caller's, since nobody can say which of the messages it had answered. When the caller closes
its side, the answers still due come, and then the end. What is to be read of the messages is `Route`'s to know: they
are bytes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import NamedTuple, Protocol

from mesh.errors import InvalidInput, MeshError, Unavailable

MAX_MODELS = 64
# Messages of one model that wait for its stream, and answers that wait for the caller.
MAX_AHEAD = 16

Feed = Callable[[], AsyncIterator[bytes]]


class Model(NamedTuple):
    """What a message is for; the version is empty when it names none."""

    name: str
    version: str = ""


class Route(Protocol):
    """What a service knows of the messages and of the way to the next hop."""

    def model_of(self, message: bytes) -> Model:
        """The model that the message is for. Raises MeshError when there is no way to it."""
        ...

    def answers(self, model: Model, feed: Feed) -> AsyncGenerator[bytes, None]:
        """The answers of the next hop to the messages of `feed`, which is asked again for another attempt.

        Raises MeshError.
        """
        ...

    def failure(self, message: bytes, error: MeshError) -> bytes:
        """The answer that stands for an error."""
        ...


class InferStream:
    """One caller's stream. Owns the tasks that read and write the streams behind it."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._hops: dict[Model, _Hop] = {}
        self._tasks: list[asyncio.Task[None]] = []
        # Answers, the error that ends all, and None for each task that has ended.
        self._outbox: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(MAX_AHEAD)

    async def answers(self, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The answers to `messages`. Closing it ends all streams behind it."""
        self._spawn(self._read(messages))
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
                # The top of a task: whatever it is, the caller's stream ends with it.
                end = error
            await self._outbox.put(end)

        self._tasks.append(asyncio.create_task(run()))

    async def _read(self, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Send each message where it belongs; yields the answers to those that belong nowhere."""
        async for message in messages:
            try:
                hop = self._hop_of(self._route.model_of(message))
            except MeshError as error:
                yield self._route.failure(message, error)
                continue
            await hop.inbox.put(message)
        for hop in self._hops.values():
            await hop.inbox.put(None)

    def _hop_of(self, model: Model) -> _Hop:
        hop = self._hops.get(model)
        if hop is None:
            if len(self._hops) == MAX_MODELS:
                raise InvalidInput(f"one stream names more than {MAX_MODELS} models", field="model_name")
            hop = self._hops[model] = _Hop()
            self._spawn(self._answers_of(model, hop))
        return hop

    async def _answers_of(self, model: Model, hop: _Hop) -> AsyncGenerator[bytes, None]:
        """Of one model, from one stream; from another one when none could be opened and messages follow."""
        while (message := await hop.inbox.get()) is not None:
            hop.next_message = message
            try:
                async with aclosing(self._route.answers(model, hop.feed)) as answers:
                    async for answer in answers:
                        yield answer
                if not hop.is_over:
                    raise Unavailable(f"the stream behind '{model.name}' was closed while requests were due")
                return
            except MeshError as error:
                if hop.has_sent:
                    raise
                yield self._route.failure(message, error)


class _Hop:
    """What is on its way to one model.

    next_message: out of the inbox, and not sent yet. is_over: all has been sent.
    """

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_AHEAD)
        self.next_message: bytes | None = None
        self.has_sent = False
        self.is_over = False

    def feed(self) -> AsyncIterator[bytes]:
        """The messages, up to the None.

        Raises Unavailable for a second feed, after a lost replica, unless none went out before it.
        """
        if self.has_sent:
            raise Unavailable("the replica was lost after requests had gone to it")
        return self._messages()

    async def _messages(self) -> AsyncIterator[bytes]:
        message = self.next_message
        while message is not None:
            self.has_sent = True
            yield message
            message = await self.inbox.get()
        self.is_over = True
