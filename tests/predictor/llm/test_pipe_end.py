"""Messages between an event loop and a Connection, whole and in order, however the pipe cuts them."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from multiprocessing.connection import Connection
from typing import Any

import pytest

from predictor.llm.pipe_end import PipeEnd


class Ends:
    """Both ends of a pipe, and what was heard at the loop's; None stands for its end."""

    def __init__(self) -> None:
        own, other = socket.socketpair()
        self.peer: Connection[Any, Any] = Connection(os.dup(other.fileno()))
        other.close()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.pipe = PipeEnd(own, self.heard.put_nowait, lambda: self.heard.put_nowait(None))

    async def next(self) -> Any:
        return await asyncio.wait_for(self.heard.get(), 20)


@pytest.fixture
async def ends() -> Any:
    made = Ends()
    yield made
    made.pipe.close()
    made.peer.close()


SIZES = (0, 1, 1000, 1 << 18, (1 << 18) + 5, 3_000_000)


async def test_what_the_peer_sends_arrives_whole_and_in_order(ends: Ends) -> None:
    def speak() -> None:
        for size in SIZES:
            ends.peer.send(b"x" * size)

    speaker = threading.Thread(target=speak)
    speaker.start()

    assert [len(await ends.next()) for _ in SIZES] == list(SIZES)
    speaker.join()


async def test_many_small_messages_at_once_arrive_in_order(ends: Ends) -> None:
    for number in range(100):
        ends.peer.send(number)

    assert [await ends.next() for _ in range(100)] == list(range(100))


async def test_what_the_pipe_has_no_room_for_is_kept(ends: Ends) -> None:
    for size in SIZES:
        ends.pipe.send(b"y" * size)

    assert [len(await asyncio.to_thread(ends.peer.recv)) for _ in SIZES] == list(SIZES)


async def test_a_long_frame_is_read_as_well(ends: Ends) -> None:
    """As a Connection sends what has more than 2 GiB: here of a few bytes."""
    content = b"\x80\x04K\x07."  # 7, pickled
    os.write(ends.peer.fileno(), b"\xff\xff\xff\xff" + len(content).to_bytes(8, "big") + content)

    assert await ends.next() == 7


async def test_the_end_of_the_peer_comes_after_its_last_message(ends: Ends) -> None:
    ends.peer.send("last")
    ends.peer.close()

    assert [await ends.next(), await ends.next()] == ["last", None]
    ends.pipe.send("to nobody")


async def test_closing_takes_in_what_was_said_and_tells_of_the_end_once(ends: Ends) -> None:
    ends.peer.send("said")

    ends.pipe.close()
    ends.pipe.close()

    assert [await ends.next(), await ends.next()] == ["said", None]
    await asyncio.sleep(0)
    assert ends.heard.empty()


async def test_a_reader_that_fails_gets_the_messages_after_it() -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    own, other = socket.socketpair()
    heard: asyncio.Queue[int] = asyncio.Queue()

    def hear(number: int) -> None:
        if number == 0:
            raise ZeroDivisionError
        heard.put_nowait(number)

    pipe = PipeEnd(own, hear, lambda: None)
    peer: Connection[Any, Any] = Connection(other.detach())
    peer.send(0)
    peer.send(1)

    assert await asyncio.wait_for(heard.get(), 20) == 1
    assert [type(error) for error in errors] == [ZeroDivisionError]
    pipe.close()
    peer.close()
