"""The registry's gauges show what is there when they are read."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, Replica
from registry.leases import Leases
from registry.metrics import register_metrics
from registry.watch import WatchLog


def test_gauges_follow() -> None:
    registry, leases = CollectorRegistry(), Leases(lambda: 0.0)
    register_metrics(registry, WatchLog("e1", [Deployment(name="iris")]), leases)
    leases.announce(Replica(id="r1", kind=SERVICE_KIND_PREDICTOR, address="h:1"), 5)

    values = {metric.name: metric.samples[0].value for metric in registry.collect()}
    assert values == {
        "meshserve_registry_replicas": 1,
        "meshserve_registry_deployments": 1,
        "meshserve_registry_watchers": 0,
        "meshserve_registry_revision": 1,
    }
