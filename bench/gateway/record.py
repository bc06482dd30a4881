"""What a run writes down, as JSON: every slice of every round, and the gateway's memory as requests pass."""

from __future__ import annotations

from bench.run_record import BaseRunRecord, Frozen

UNARY, STREAM = "unary", "stream"


class Slice(Frozen):
    """One hop under one load for a moment. kind: UNARY, whose units are calls, or STREAM, whose units are tokens.

    cpu_us: of the hop's process, a unit. p50_ms, p99_ms: of a call through the hop, or of a token from the backend to
    the client. direct_p50_ms, direct_p99_ms: the same without the hop, just before.
    """

    hop: str
    kind: str
    concurrency: int
    round: int
    units: int
    units_per_s: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    direct_p50_ms: float
    direct_p99_ms: float


class Memory(Frozen):
    """The gateway's proportional set size after so many requests."""

    requests: int
    pss_mb: float


class Pick(Frozen):
    """How long a policy takes to choose one of 256 replicas with its index full: of several means, µs."""

    policy: str
    median_us: float
    greatest_us: float


class RunRecord(BaseRunRecord):
    """One run of the benchmark. client: what sent the unary calls."""

    client: str
    slices: tuple[Slice, ...] = ()
    memory: tuple[Memory, ...] = ()
    picks: tuple[Pick, ...] = ()
