"""One stream in front of several: order, bad messages, models that are away, and streams that break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from mesh.errors import Internal, MeshError, ModelNotFound, Unavailable
from mesh.infer_stream import MAX_AHEAD, MAX_MODELS, Feed, InferStream, Model

pytestmark = pytest.mark.timeout(20)


class FakeRoute:
    """Messages are b"model:text"; each is echoed. away: models that nobody serves, taken from in turn by attempts."""

    def __init__(self) -> None:
        self.away: list[str] = []
        self.num_open = 0
        self.num_opened = 0

    def model_of(self, message: bytes) -> Model:
        model, separator, _ = message.decode().partition(":")
        if not separator:
            raise ModelNotFound(f"'{model}' names no model")
        return Model(model)

    async def answers(self, model: Model, feed: Feed) -> AsyncGenerator[bytes, None]:
        if model.name in self.away:
            self.away.remove(model.name)
            raise Unavailable(f"no ready predictor for '{model.name}'")
        self.num_open += 1
        self.num_opened += 1
        try:
            async for message in feed():
                if message.endswith(b":die"):
                    raise Internal("the replica died")
                if message.endswith(b":close"):
                    return
                yield message
        finally:
            self.num_open -= 1

    def failure(self, message: bytes, error: MeshError) -> bytes:
        return b"failed " + message


async def each(*messages: bytes) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def answers_to(route: FakeRoute, *messages: bytes) -> list[bytes]:
    return [answer async for answer in InferStream(route).answers(each(*messages))]


async def test_answers_of_each_model_keep_their_order_on_one_stream_each() -> None:
    route = FakeRoute()
    messages = [f"{'ab'[number % 2]}:{number}".encode() for number in range(10 * MAX_AHEAD)]

    answers = await answers_to(route, *messages)

    for model in (b"a:", b"b:"):
        assert [one for one in answers if one.startswith(model)] == [one for one in messages if one.startswith(model)]
    assert (route.num_opened, route.num_open) == (2, 0)


async def test_a_message_without_a_way_is_answered_and_the_stream_goes_on() -> None:
    assert sorted(await answers_to(FakeRoute(), b"a:1", b"nonsense", b"a:2")) == [b"a:1", b"a:2", b"failed nonsense"]


async def test_a_model_that_is_away_fails_its_messages_one_by_one_until_it_is_back() -> None:
    route = FakeRoute()
    route.away = ["a", "a"]

    answers = await answers_to(route, b"a:1", b"b:1", b"a:2", b"a:3", b"a:4")

    assert [one for one in answers if b"a:" in one] == [b"failed a:1", b"failed a:2", b"a:3", b"a:4"]
    assert b"b:1" in answers


@pytest.mark.parametrize(("last", "words"), [(b"a:die", "the replica died"), (b"a:close", "closed while requests")])
async def test_a_stream_that_breaks_behind_ends_all_with_its_error(last: bytes, words: str) -> None:
    route = FakeRoute()

    with pytest.raises(MeshError, match=words):
        await answers_to(route, b"b:1", b"a:1", last, *[b"a:2"] * (3 * MAX_AHEAD))

    assert route.num_open == 0


async def test_a_replica_that_is_lost_with_requests_is_not_asked_again() -> None:
    class Retrying(FakeRoute):
        async def answers(self, model: Model, feed: Feed) -> AsyncGenerator[bytes, None]:
            assert [message async for message in feed()]
            async for message in feed():
                yield message

    with pytest.raises(Unavailable, match="lost after requests had gone to it"):
        await answers_to(Retrying(), b"a:1")


async def test_the_number_of_models_is_bounded() -> None:
    answers = await answers_to(FakeRoute(), *(f"m{number}:x".encode() for number in range(MAX_MODELS + 3)))

    assert sum(answer.startswith(b"failed") for answer in answers) == 3


async def test_closing_the_stream_ends_those_behind() -> None:
    route = FakeRoute()

    async def endless() -> AsyncIterator[bytes]:
        yield b"a:1"
        await asyncio.Event().wait()

    async with aclosing(InferStream(route).answers(endless())) as answers:
        assert await anext(answers) == b"a:1"
        assert route.num_open == 1

    assert route.num_open == 0
