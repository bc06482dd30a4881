"""How full a server is: counts what it answers, asks the service what else it holds, and encodes the load report.

The encoded report is kept for a moment, so that it costs an answer next to nothing. Rates and utilization are of the
last whole second or so. Knows neither gRPC nor models.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mesh.load_report import LoadReport, encode_load_report

# How old a report may be that goes out with an answer.
FRESH_S = 0.05
# A trailer of a call takes gRPC 10 to 25 µs at both ends, so of many calls not each has one.
TRAILER_EVERY_S = 0.005
WINDOW_S = 1.0


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a service holds that its RPCs alone do not show.

    queued, queued_tokens, kv_usage: as in LoadReport. num_places: requests that it can work on at one time; 0: as many
    as there are CPUs.
    """

    queued: int = 0
    queued_tokens: int = 0
    kv_usage: float = 0.0
    num_places: int = 0


class LoadMeter:
    """Of one server; all calls come from one event loop. now: a clock in seconds.

    utilization is the mean number of requests in the last window over the places. Divided by it, the rate of requests
    says how many the server would answer if it were full (Little's law: places over latency), which is the weight that
    a stock `weighted_round_robin` client makes of a report.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._holdings: Callable[[], Holdings] = Holdings
        self._num_cpus = len(os.sched_getaffinity(0))
        self._num_running = 0
        self._extra_work = 0.0
        self._encoded = b""
        self._encoded_until = 0.0
        self._trailer_at = 0.0
        self._window_began = self._changed_at = now()
        self._request_s = 0.0  # seconds of all requests in this window
        self._num_ended = 0
        self._num_failed = 0
        self._rates = (0.0, 0.0, 0.0)  # of the last whole window: requests a second, errors a second, mean running

    def ask(self, holdings: Callable[[], Holdings]) -> None:
        """Let reports have what `holdings` says; it is asked at most every FRESH_S."""
        self._holdings = holdings

    def began(self) -> None:
        """The server begins to answer a request, which counts as one piece of work."""
        self._advance(self._now())
        self._num_running += 1

    def ended(self, *, is_failed: bool) -> None:
        """It has ended. is_failed: by the server's fault."""
        self._advance(self._now())
        self._num_running -= 1
        self._num_ended += 1
        self._num_failed += is_failed
        if not self._num_running:
            self._extra_work = 0.0  # sums of floats drift

    @contextmanager
    def work(self, cost: float) -> Iterator[None]:
        """While the block runs, a request that has begun counts as `cost` instead of one."""
        self._extra_work += cost - 1.0
        try:
            yield
        finally:
            self._extra_work -= cost - 1.0

    def encoded(self) -> bytes:
        """The report as of now, or of FRESH_S ago at most; the same object while it is the same."""
        now = self._now()
        if now >= self._encoded_until:
            self._encoded_until = now + FRESH_S
            encoded = encode_load_report(self._report(now))
            if encoded != self._encoded:
                self._encoded = encoded
        return self._encoded

    def trailer(self) -> bytes | None:
        """As `encoded`, for the trailing metadata of a call; None when another call had it just now."""
        now = self._now()
        if now < self._trailer_at:
            return None
        self._trailer_at = now + TRAILER_EVERY_S
        return self.encoded()

    def report(self) -> LoadReport:
        """The load as of now."""
        return self._report(self._now())

    def _report(self, now: float) -> LoadReport:
        self._advance(now)
        elapsed_s = now - self._window_began
        if elapsed_s >= WINDOW_S:
            self._rates = (self._num_ended / elapsed_s, self._num_failed / elapsed_s, self._request_s / elapsed_s)
            self._window_began, self._request_s, self._num_ended, self._num_failed = now, 0.0, 0, 0
        held = self._holdings()
        requests_per_s, errors_per_s, mean_running = self._rates
        return LoadReport(
            running=max(0, self._num_running - held.queued),
            queued=held.queued,
            queued_tokens=held.queued_tokens,
            kv_usage=held.kv_usage,
            work=max(0.0, self._num_running + self._extra_work),
            requests_per_s=requests_per_s,
            errors_per_s=errors_per_s,
            utilization=max(mean_running / (held.num_places or self._num_cpus), held.kv_usage),
        )

    def _advance(self, now: float) -> None:
        self._request_s += self._num_running * (now - self._changed_at)
        self._changed_at = now
