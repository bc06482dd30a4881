"""The gateway's own metrics: requests by route and deployment, on top of the RPC metrics that every service has.

Labels are bounded: route templates, names of known deployments, status codes.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.exchange import Exchange
from gateway.traffic import Route
from mesh.deployments import versions_of
from mesh.durations import Duration, Durations

LATENCY_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1, 2.5, 5, 10, 20, 40, 60, 120, 240, 480, 960),
)
FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
NO_DEPLOYMENT = "_none"


class GatewayMetrics:
    """`observe` is a sink for finished exchanges."""

    def __init__(self, registry: CollectorRegistry, in_flight: Callable[[], float]) -> None:
        self._requests = Counter(
            "meshserve_gateway_requests",
            "Requests answered, by route, deployment ('_none': no known one) and HTTP status or gRPC code.",
            ["protocol", "route", "deployment", "code"],
            registry=registry,
        )
        self._duration = Durations(
            "meshserve_gateway_request_duration_seconds",
            "Seconds from the arrival of a request to the end of its answer.",
            ["protocol", "route", "deployment"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._first_token = Durations(
            "meshserve_gateway_time_to_first_token_seconds",
            "Seconds from the arrival of a request to its first generated token.",
            ["protocol", "deployment"],
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._routed = Counter(
            "meshserve_gateway_routed_requests",
            "Requests for deployments with several versions or traffic rules: who served them, and why it.",
            ["deployment", "served_by", "arm"],
            registry=registry,
        )
        # Finding a labelled metric costs more than counting with it.
        self._found: dict[tuple[str, str, str, str], tuple[Counter, Duration]] = {}
        running = Gauge("meshserve_gateway_requests_in_flight", "Requests being answered now.", registry=registry)
        running.set_function(in_flight)

    def observe(self, exchange: Exchange) -> None:
        """Count a finished exchange."""
        deployment = exchange.deployment or NO_DEPLOYMENT
        key = (exchange.protocol, exchange.route, deployment, exchange.status)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._requests.labels(*key), self._duration.labels(*key[:3])
        requests, duration = found
        requests.inc()
        duration.observe(exchange.total_s)
        first_token_s = exchange.first_token_s
        if first_token_s is not None:
            self._first_token.labels(exchange.protocol, deployment).observe(first_token_s)
        if exchange.taken is not None:
            self._count_route(exchange.taken)

    def _count_route(self, taken: Route) -> None:
        # A version that a client names may be any text; labels must be few.
        if taken.version in ("", *versions_of(taken.deployment)):
            self._routed.labels(taken.asked_name, taken.served_by, taken.arm).inc()
