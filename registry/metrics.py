"""Numbers of the registry for Prometheus, read from it when they are asked for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from registry.leases import Leases
from registry.watch import WatchLog


def register_metrics(registry: CollectorRegistry, watch_log: WatchLog, leases: Leases) -> None:
    """Add the registry's gauges to `registry`."""
    for name, description, read in (
        ("meshserve_registry_replicas", "Replicas whose lease is alive.", lambda: len(leases)),
        ("meshserve_registry_deployments", "Deployments.", lambda: len(watch_log.view.deployments)),
        ("meshserve_registry_watchers", "Watch streams open now.", lambda: watch_log.num_watchers),
        ("meshserve_registry_revision", "Number of the last change since the start.", lambda: watch_log.revision),
    ):
        Gauge(name, description, registry=registry).set_function(read)
