"""Whether a peer that owes an answer still lives: how long it has been silent, and what follows from that.

A process that is frozen, or cut off from the network, keeps its connections: nothing ends, and nothing comes. So while
somebody waits, silence is counted; after a third of the time-out the peer is asked for a sign of life, after two thirds
new requests had better go elsewhere, and then it counts as dead. Knows no call and no message.

Half-way somebody knocks: tries a new connection. gRPC's core takes it on threads of its own, so a process whose Python
is held up (a library that loads, a long call with the interpreter's lock) answers there, and a frozen one does not. Who
answers has HUNG_FACTOR times as long.

Silence is counted in ticks of this process's own timer and not by the clock: a process that was paused or starved
itself finds one tick gone by, and what came meanwhile waits to be read. A peer that never answered a ping may not know
pings; silence proves nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mesh.load_report import LoadReport

# Generous beside what a busy event loop takes for a pong, short beside what a person waits for.
LIVENESS_TIMEOUT_S = 3.0

# A process that runs but does nothing is given up, too, in the end.
HUNG_FACTOR = 10

_TICKS = 12
_PING_AT = _TICKS // 3
_KNOCK_AT = _TICKS // 2
_SUSPECT_AT = 2 * _TICKS // 3


class Peer:
    """What all exchanges of one channel learn of the process at its other end. Calls back when it changes.

    answers_pings: it did once. is_suspect: it owes a sign of life. is_draining: it is about to end, and says so.
    """

    def __init__(self) -> None:
        self.answers_pings = False
        self.is_suspect = False
        self.is_draining = False
        self.on_suspect: Callable[[bool], None] = lambda is_suspect: None
        self.on_drain: Callable[[bool], None] = lambda is_draining: None
        self.on_load: Callable[[LoadReport], None] = lambda report: None

    def report(self, report: LoadReport | None) -> None:
        """Take in what it says of its load; None when that was none."""
        if report is not None:
            self.on_load(report)

    def suspect(self, is_suspect: bool) -> None:
        """Note whether it owes a sign of life."""
        if is_suspect != self.is_suspect:
            self.is_suspect = is_suspect
            self.on_suspect(is_suspect)

    def drain(self, is_draining: bool) -> None:
        """Note whether it says that it is about to end."""
        if is_draining != self.is_draining:
            self.is_draining = is_draining
            self.on_drain(is_draining)


class Timer(Protocol):
    """What `call_later` gives."""

    def cancel(self) -> None: ...


class Liveness:
    """Of the peer of one exchange, while `is_awaited()`.

    ping: asks it for a sign of life. knock: tries a new connection, and calls `runs` when that stands. on_death: the
    peer was silent for so many seconds. call_later: the event loop's.
    """

    def __init__(
        self,
        peer: Peer,
        timeout_s: float,
        *,
        is_awaited: Callable[[], bool],
        ping: Callable[[], None],
        knock: Callable[[], None],
        on_death: Callable[[float], None],
        call_later: Callable[[float, Callable[[], None]], Timer],
    ) -> None:
        self._peer = peer
        self._tick_s = timeout_s / _TICKS
        self._is_awaited = is_awaited
        self._ping = ping
        self._knock = knock
        self._on_death = on_death
        self._call_later = call_later
        self._num_silent_ticks = 0
        self._patience_ticks = _TICKS
        self._timer: Timer | None = None
        self._is_over = False

    def awaited(self) -> None:
        """Somebody begins to wait for the peer."""
        if self._timer is None and not self._is_over:
            # Silence goes on from where it was: those who waited before may have given up, each too early to tell.
            self._timer = self._call_later(self._tick_s, self._tick)

    def heard(self) -> None:
        """The peer sent something."""
        self._num_silent_ticks = 0
        self._patience_ticks = _TICKS
        if self._peer.is_suspect:
            self._peer.suspect(False)

    def runs(self) -> None:
        """The peer takes connections: it is not frozen, and its silence has another reason."""
        if self._num_silent_ticks >= _KNOCK_AT:  # else it has spoken since
            self._patience_ticks = HUNG_FACTOR * _TICKS

    def close(self) -> None:
        """Stop for good."""
        self._is_over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if not self._is_awaited():
            return
        self._num_silent_ticks += 1
        if self._num_silent_ticks == _PING_AT:
            self._ping()
        if self._peer.answers_pings:
            if self._num_silent_ticks == _KNOCK_AT:
                self._knock()
            if self._num_silent_ticks >= _SUSPECT_AT:
                self._peer.suspect(True)
            if self._num_silent_ticks >= self._patience_ticks:
                self._is_over = True
                self._on_death(self._num_silent_ticks * self._tick_s)
                return
        self._timer = self._call_later(self._tick_s, self._tick)
