"""When a message waits for company: only on a loop whose thread hardly ever sleeps."""

from __future__ import annotations

from mesh.multiplex.linger import BUSY, WINDOW_S, Linger


class Clocks:
    """now_s and cpu_s: what the two clocks show."""

    def __init__(self) -> None:
        self.now_s = 5.0
        self.cpu_s = 1.0

    def linger(self) -> Linger:
        return Linger(lambda: self.now_s, lambda: self.cpu_s)

    def pass_window(self, share: float) -> None:
        """A whole window, in which the thread computed for `share` of the time."""
        self.now_s += 1.01 * WINDOW_S
        self.cpu_s += share * 1.01 * WINDOW_S


def test_a_loop_is_busy_while_its_thread_computes_most_of_the_time() -> None:
    clocks = Clocks()
    linger = clocks.linger()
    seen = []

    for share in (BUSY - 0.05, BUSY + 0.05, 1.0, 0.5):
        clocks.pass_window(share)
        seen.append(linger.look())

    assert seen == [False, True, True, False]


def test_what_was_found_holds_until_the_next_window_is_whole() -> None:
    clocks = Clocks()
    linger = clocks.linger()
    clocks.pass_window(1.0)
    linger.look()

    clocks.now_s += WINDOW_S / 2

    assert linger.look()


async def test_an_idle_loop_sends_at_once() -> None:
    linger = Clocks().linger()

    waiting = linger.wait()
    try:
        waiting.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")
