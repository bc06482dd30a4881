"""Silence is counted while somebody waits, in this process's own ticks, and proves nothing of a peer without pings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.multiplex.liveness import HUNG_FACTOR, Liveness, Peer

TICKS = 12
TIMEOUT_S = 3.0


class Timer:
    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock, self.callback = clock, callback

    def cancel(self) -> None:
        self._clock.timers.remove(self)


class Clock:
    """Timers that fire when a test says so."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []
        self.delays: list[float] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        self.delays.append(delay_s)
        self.timers.append(Timer(self, callback))
        return self.timers[-1]

    def tick(self) -> bool:
        """Fire what is due; False when nothing is."""
        due, self.timers = self.timers, []
        for timer in due:
            timer.callback()
        return bool(due)


class Rig:
    def __init__(self, *, answers_pings: bool = True) -> None:
        self.clock = Clock()
        self.peer = Peer()
        self.peer.answers_pings = answers_pings
        self.changes: list[bool] = []
        self.peer.on_suspect = self.changes.append
        self.is_awaited = True
        self.pings = 0
        self.knocks = 0
        self.deaths: list[float] = []
        self.liveness = Liveness(
            self.peer,
            TIMEOUT_S,
            is_awaited=lambda: self.is_awaited,
            ping=self._ping,
            knock=self._knock,
            on_death=self.deaths.append,
            call_later=self.clock.call_later,
        )
        self.liveness.awaited()

    def _ping(self) -> None:
        self.pings += 1

    def _knock(self) -> None:
        self.knocks += 1

    def tick(self, times: int) -> None:
        for _ in range(times):
            self.clock.tick()


def test_silence_leads_to_a_ping_then_to_suspicion_then_to_death() -> None:
    rig = Rig()
    seen = []
    for _ in range(TICKS):
        rig.tick(1)
        seen.append((rig.pings, rig.knocks, rig.peer.is_suspect, rig.deaths[:]))

    assert seen[2:4] == [(0, 0, False, []), (1, 0, False, [])]
    assert seen[4:6] == [(1, 0, False, []), (1, 1, False, [])]
    assert seen[6:8] == [(1, 1, False, []), (1, 1, True, [])]
    assert seen[10:] == [(1, 1, True, []), (1, 1, True, [TIMEOUT_S])]
    assert sum(rig.clock.delays[:TICKS]) == pytest.approx(TIMEOUT_S)
    assert rig.clock.timers == []


def test_a_word_of_the_peer_ends_the_suspicion_and_silence_counts_from_there() -> None:
    rig = Rig()
    rig.tick(TICKS - 1)
    rig.liveness.heard()
    rig.tick(TICKS - 1)

    assert rig.changes == [True, False, True]
    assert (rig.pings, rig.deaths) == (2, [])
    rig.tick(1)
    assert rig.deaths == [TIMEOUT_S]


def test_a_peer_that_takes_connections_is_suspect_and_dead_much_later() -> None:
    rig = Rig()
    rig.tick(TICKS - 1)
    rig.liveness.runs()
    rig.tick((HUNG_FACTOR - 1) * TICKS)

    assert (rig.peer.is_suspect, rig.deaths, rig.knocks) == (True, [], 1)
    rig.tick(1)
    assert rig.deaths == [HUNG_FACTOR * TIMEOUT_S]


def test_a_connection_that_stands_after_the_peer_has_spoken_proves_nothing_of_its_next_silence() -> None:
    rig = Rig()
    rig.tick(TICKS - 1)
    rig.liveness.heard()
    rig.liveness.runs()
    rig.tick(TICKS)

    assert rig.deaths == [TIMEOUT_S]


def test_the_silence_of_a_peer_that_never_answered_a_ping_proves_nothing() -> None:
    rig = Rig(answers_pings=False)

    rig.tick(10 * TICKS)

    assert (rig.pings, rig.knocks, rig.deaths, rig.changes) == (1, 0, [], [])


def test_nothing_is_counted_while_nobody_waits() -> None:
    rig = Rig()
    rig.is_awaited = False
    rig.tick(1)

    assert not rig.clock.tick()
    assert (rig.pings, rig.deaths) == (0, [])


def test_those_who_give_up_early_one_after_another_find_a_silent_peer_out_together() -> None:
    rig = Rig()
    for _ in range(TICKS):
        rig.is_awaited = True
        rig.liveness.awaited()
        rig.tick(1)
        rig.is_awaited = False
        rig.tick(1)

    assert rig.deaths == [TIMEOUT_S]


def test_after_the_end_nothing_ticks() -> None:
    rig = Rig()
    rig.liveness.close()
    rig.liveness.awaited()

    assert rig.clock.timers == []


STEP = st.sampled_from(["tick", "tick", "tick", "heard", "awaited", "given up", "runs"])


@given(st.lists(STEP, max_size=300))
def test_death_comes_only_after_a_whole_timeout_of_ticks_without_a_word(steps: list[str]) -> None:
    rig = Rig()
    num_silent, patience = 0, TICKS
    for step in steps:
        if step == "tick":
            num_silent += rig.clock.tick() and rig.is_awaited
        elif step == "heard":
            num_silent, patience = 0, TICKS
            rig.liveness.heard()
            assert not rig.peer.is_suspect
        elif step == "awaited":
            rig.is_awaited = True
            rig.liveness.awaited()
        elif step == "runs":
            patience = HUNG_FACTOR * TICKS if num_silent >= TICKS // 2 else patience
            rig.liveness.runs()
        else:
            rig.is_awaited = False
        assert len(rig.clock.timers) <= 1
        assert len(rig.deaths) == (num_silent >= patience)
        if rig.deaths:
            break
        assert rig.peer.is_suspect == (num_silent >= 2 * TICKS // 3)
