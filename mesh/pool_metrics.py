"""What a pool counts for Prometheus. Labels are names of services and words of this module: bounded."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class PoolMetrics:
    """Attempts by how they ended, retries, ejections, and streams that went on elsewhere.

    outcome: "ok", "error" (the replica answered so), or "unreachable" (the way to it failed). An attempt that the
    caller gave up has none. reason of a resumption: "unreachable" (the way to the replica broke), "error" (it answered
    so), "left" (it drains or was withdrawn), or "other_model" (it was asked to go on, and has another model).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "meshserve_next_hop_attempts",
            "Calls to replicas of the next hop that ended, by outcome.",
            ["service", "outcome"],
            registry=registry,
        )
        self.retries = Counter(
            "meshserve_next_hop_retries", "Calls made again on another replica.", ["service"], registry=registry
        )
        self.ejections = Counter(
            "meshserve_next_hop_ejections", "Times that a replica was kept out.", ["service"], registry=registry
        )
        self.resumptions = Counter(
            "meshserve_stream_resumptions",
            "Streams that went on at another replica, by why.",
            ["service", "reason"],
            registry=registry,
        )
