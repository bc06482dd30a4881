"""How much a pool lets run at a replica, how long a request waits for one, and when it is asked of a second one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallLimits:
    """max_in_flight_per_replica: calls of this process; a replica that has as many gets no more.

    max_queued: requests that wait, for each deployment and service; 0: none ever does. queue_timeout_s: how long one
    waits while all replicas have their most. hold_s: how long while none is ready or can be reached; 0: it fails at
    once. hedge_after_s: time without an answer after which a unary call is made at a second replica; 0: never.
    """

    max_in_flight_per_replica: int = 1024
    max_queued: int = 1024
    queue_timeout_s: float = 30.0
    hold_s: float = 0.0
    hedge_after_s: float = 0.0
