"""The load tells right answers from wrong ones and failures: a harness that cannot fail would prove nothing."""

from __future__ import annotations

import asyncio
import random

import pytest

from bench.chaos.answer import Answer, Failed, Output
from bench.chaos.asks import Ask, Clients, Heard
from bench.chaos.load import Load, Outcome, right_answers
from mesh.testing import eventually

RIGHT, WRONG = Answer((Output("right"),)), Answer((Output("wrong"),))


async def right(_clients: Clients, heard: Heard) -> Answer:
    heard()
    heard()
    return RIGHT


async def wrong(_clients: Clients, _heard: Heard) -> Answer:
    return WRONG


async def failing(_clients: Clients, heard: Heard) -> Answer:
    heard()
    raise Failed("UNAVAILABLE: no")


async def hanging(_clients: Clients, _heard: Heard) -> Answer:
    await asyncio.Event().wait()
    return RIGHT


ASKS = {send.__name__: Ask(send.__name__, 0, send) for send in (right, wrong, failing, hanging)}


def load_of(*names: str, timeout_s: float = 30.0) -> Load:
    expected = {ask.name: RIGHT for ask in ASKS.values()}
    clients = Clients("http://127.0.0.1:9", "127.0.0.1:9", timeout_s)
    return Load([ASKS[name] for name in names], expected, clients, rng=random.Random(1))


async def outcome_of(name: str, timeout_s: float = 30.0) -> Outcome:
    return await load_of(name, timeout_s=timeout_s).request(ASKS[name])


async def test_a_right_answer_has_neither_error_nor_difference() -> None:
    outcome = await outcome_of("right")

    assert (outcome.error, outcome.difference, outcome.num_parts) == (None, None, 2)
    assert 0 <= outcome.longest_pause_s <= outcome.ended_s - outcome.started_s


async def test_a_wrong_answer_a_failure_and_a_hanging_request_are_told() -> None:
    assert (await outcome_of("wrong")).difference == "output 0: text differ at 0 of 5: 'right' expected, 'wrong' came"
    assert (await outcome_of("failing")).error == "UNAVAILABLE: no"
    assert (await outcome_of("hanging", timeout_s=-5.0)).error == "no answer after 0 s"


async def test_each_request_bears_an_id_of_its_own_to_the_logs() -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def asking(clients: Clients, _heard: Heard) -> Answer:
        await clients.http.get("/")
        return RIGHT

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Clients(f"http://127.0.0.1:{port}", "127.0.0.1:9", 10.0) as clients:
        load = Load([], {"asking 0": RIGHT}, clients, rng=random.Random(1))
        outcomes = [await load.request(Ask("asking", 0, asking)) for _ in range(2)]

    assert [outcome.request_id for outcome in outcomes] == ["chaos-1", "chaos-2"]
    assert all(b"x-request-id: chaos-%d\r\n" % number in head for number, head in enumerate(heads, 1))


async def test_the_load_goes_on_after_failures_until_it_is_told_to_end() -> None:
    load, is_over = load_of("right", "wrong", "failing"), asyncio.Event()
    running = asyncio.create_task(load.run(3, is_over))

    await eventually(lambda: {outcome.kind for outcome in load.outcomes} == {"right", "wrong", "failing"}, 30)
    is_over.set()
    await running

    assert load.num_streaming == 0


async def test_what_fails_without_chaos_ends_the_run() -> None:
    with pytest.raises(Failed, match="failing 0, without chaos: UNAVAILABLE"):
        await right_answers([ASKS["failing"]], Clients("http://127.0.0.1:9", "127.0.0.1:9", 1.0), 2)
    assert await right_answers([ASKS["right"]], Clients("http://127.0.0.1:9", "127.0.0.1:9", 1.0), 2) == {
        "right 0": RIGHT
    }
