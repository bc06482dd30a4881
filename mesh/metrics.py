"""Prometheus metrics of a service, and the small HTTP server that shows them.

`/metrics` and `/healthz` answer from a thread of their own, so that a scrape works while the event loop is busy; and
`/healthz` says 503 when the loop has not turned for a while, which a thread alone would not notice.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from mesh.durations import Durations

RPC_BUCKETS_S = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
)


class RpcMetrics:
    """Rate, errors and duration of the RPCs that a service answers. Labels are method names and codes: bounded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.handled = Counter(
            "meshserve_rpc_handled",
            "RPCs answered, by method and code.",
            ["method", "code"],
            registry=registry,
        )
        self.duration = Durations(
            "meshserve_rpc_duration_seconds",
            "Seconds from the start of an RPC to its end.",
            ["method"],
            buckets=RPC_BUCKETS_S,
            registry=registry,
        )
        self.num_in_flight = 0
        in_flight = Gauge("meshserve_rpc_in_flight", "RPCs being answered now.", registry=registry)
        in_flight.set_function(lambda: self.num_in_flight)

    def of(self, method: str) -> MethodMetrics:
        """The metrics of one method, for whoever answers it."""
        return MethodMetrics(self, method)


class MethodMetrics:
    """Those of one method. Finding a labelled metric costs more than counting with it, so each is found once."""

    def __init__(self, metrics: RpcMetrics, method: str) -> None:
        self._metrics = metrics
        self._handled = metrics.handled
        self._method = method
        self._duration = metrics.duration.labels(method)
        self._by_code: dict[str, Counter] = {}

    def began(self) -> None:
        """Count an RPC that is being answered until `ended`. All are counted on one event loop."""
        self._metrics.num_in_flight += 1

    def ended(self, code: str, seconds: float) -> None:
        """Count an RPC that ended with `code` after `seconds`."""
        self._metrics.num_in_flight -= 1
        self._duration.observe(seconds)
        handled = self._by_code.get(code)
        if handled is None:
            handled = self._by_code[code] = self._handled.labels(self._method, code)
        handled.inc()


class OpsServer:
    """Serves /metrics and /healthz on a port of its own."""

    def __init__(self, registry: CollectorRegistry, is_healthy: Callable[[], bool]) -> None:
        self._registry = registry
        self._is_healthy = is_healthy
        self._http: ThreadingHTTPServer | None = None
        self.port = 0

    def start(self, host: str, port: int) -> None:
        """Bind and answer. Raises OSError when the port is taken."""
        self._http = ThreadingHTTPServer((host, port), self._handler())
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, name="ops-http", daemon=True).start()

    def stop(self) -> None:
        """Stop answering; safe to call twice."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry, is_healthy = self._registry, self._is_healthy

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # seconds that a client may take to send its request

            def do_GET(self) -> None:
                if self.path.split("?")[0] == "/metrics":
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif self.path == "/healthz":
                    healthy = is_healthy()
                    self._answer(200 if healthy else 503, "text/plain", b"ok\n" if healthy else b"not serving\n")
                else:
                    self._answer(404, "text/plain", b"known paths: /metrics, /healthz\n")

            def _answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not worth a line each."""

        return Handler


class Heartbeat:
    """Tells a thread whether the event loop still turns. `beat()` is called by the loop, `is_alive()` by anyone."""

    def __init__(self, limit_s: float = 10.0, now: Callable[[], float] = time.monotonic) -> None:
        self._limit_s = limit_s
        self._now = now
        self._last = now()

    def beat(self) -> None:
        self._last = self._now()

    def is_alive(self) -> bool:
        return self._now() - self._last < self._limit_s
