"""A member of the mesh under test is a real process: it lives, dies as it is told, and leaves nothing unseen."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bench.chaos.member import Member
from bench.server_process import CannotStart

WITHIN_S = 30.0
MakeMember = Callable[..., Member]


@pytest.fixture
def make_member(tmp_path: Path) -> Iterator[MakeMember]:
    members: list[Member] = []

    def make(*flags: str) -> Member:
        members.append(Member("one", "tests.bench.chaos.obedient", flags, tmp_path / str(len(members))))
        return members[-1]

    yield make
    for process in (process for member in members for process in member.survivors()):
        with suppress(psutil.NoSuchProcess):
            process.kill()


async def test_a_life_begins_with_its_address_and_ends_with_sigkill(make_member: MakeMember) -> None:
    member = make_member()
    member.start()

    assert member.metrics_address is None
    assert (await member.until_listening(WITHIN_S))["grpc_address"] == member.address
    assert member.metrics_address == "127.0.0.1:9"
    assert len(member.survivors()) == 2, "the process and its child"
    member.kill_all()
    assert await member.until_ended(WITHIN_S)
    assert not member.is_running


async def test_a_child_that_outlives_its_killed_parent_is_seen_in_the_next_life_too(
    make_member: MakeMember,
) -> None:
    member = make_member()
    member.start()
    await member.until_listening(WITHIN_S)
    (child,) = psutil.Process(member.pid).children()

    member.signal(signal.SIGKILL)
    assert await member.until_ended(WITHIN_S)
    member.start(on_new_port=True)
    await member.until_listening(WITHIN_S)

    assert child in member.survivors() and len(member.survivors()) == 3


async def test_what_hears_no_sigterm_is_said_to_run_still(make_member: MakeMember) -> None:
    member = make_member("--stubborn")
    member.start()
    await member.until_listening(WITHIN_S)

    member.signal(signal.SIGTERM)

    assert not await member.until_ended(0.2)


async def test_one_that_does_not_start_is_named_with_its_last_words(make_member: MakeMember) -> None:
    member = make_member("--broken")
    member.start()

    with pytest.raises(CannotStart, match="one ended: I am broken"):
        await member.until_listening(WITHIN_S)


async def test_a_ready_file_of_the_life_before_counts_for_nothing(make_member: MakeMember) -> None:
    member = make_member()
    member.start()
    await member.until_listening(WITHIN_S)
    left_behind = member.ready_file.read_text()
    member.kill_all()
    await member.until_ended(WITHIN_S)

    member.start()
    await member.until_listening(WITHIN_S)

    assert member.ready_file.read_text() != left_behind
