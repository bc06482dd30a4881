"""Streams that moved are counted by the metrics of a service; one that is dead counts nothing."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from bench.chaos.moved import COUNTER, moved_streams
from mesh.metrics import OpsServer


async def test_all_reasons_count_together() -> None:
    registry = CollectorRegistry()
    moved = Counter(COUNTER, "Moved.", ["service", "reason"], registry=registry)
    Counter("meshserve_other", "Other.", registry=registry).inc(100)
    moved.labels("predictor", "unreachable").inc(3)
    moved.labels("predictor", "left").inc(2)
    server = OpsServer(registry, lambda: True)
    server.start("127.0.0.1", 0)
    try:
        assert await moved_streams(f"127.0.0.1:{server.port}") == 5
    finally:
        server.stop()


async def test_a_dead_service_counts_nothing() -> None:
    assert await moved_streams("127.0.0.1:9") == 0
