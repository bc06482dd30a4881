"""The pool's counters have the names that dashboards ask for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from mesh.pool_metrics import PoolMetrics


def test_names() -> None:
    registry = CollectorRegistry()
    PoolMetrics(registry)

    assert {metric.name for metric in registry.collect()} == {
        "meshserve_next_hop_attempts",
        "meshserve_next_hop_retries",
        "meshserve_next_hop_ejections",
        "meshserve_stream_resumptions",
        "meshserve_next_hop_hedges",
        "meshserve_next_hop_queue_depth",
        "meshserve_next_hop_queue_wait_seconds",
        "meshserve_next_hop_queue_refused",
    }
