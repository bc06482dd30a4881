"""What a pool counts for Prometheus. Labels are names of services and words of this module: bounded."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_WAIT_BUCKETS_S = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class PoolMetrics:
    """Attempts by how they ended, retries, ejections, requests that wait, and streams that went on elsewhere.

    outcome: "ok", "error" (the replica answered so), "broken" (what came is no answer), or "unreachable" (the way to it
    failed). An attempt that the caller gave up has none. reason of a resumption: "unreachable" (the way to the replica
    broke), "error" (it answered so), "left" (it drains or was withdrawn), or "other_model" (it was asked to go on, and
    has another model).
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
        self.hedges = Counter(
            "meshserve_next_hop_hedges",
            "Calls made at a second replica beside a slow first.",
            ["service"],
            registry=registry,
        )
        self.queue_depth = Gauge(
            "meshserve_next_hop_queue_depth", "Requests that wait for a replica.", ["service"], registry=registry
        )
        self.queue_wait = Histogram(
            "meshserve_next_hop_queue_wait_seconds",
            "How long requests waited that got a replica in the end; those that never waited do not count.",
            ["service"],
            buckets=_WAIT_BUCKETS_S,
            registry=registry,
        )
        self.refused = Counter(
            "meshserve_next_hop_queue_refused",
            "Requests for which the queue had no place.",
            ["service"],
            registry=registry,
        )
