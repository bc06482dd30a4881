"""The ops server: /metrics and /healthz, also while the event loop is stuck."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from mesh.metrics import Heartbeat, OpsServer, RpcMetrics


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def base_url(clock: Clock) -> Iterator[str]:
    registry = CollectorRegistry()
    RpcMetrics(registry).handled.labels("/a/B", "OK").inc()
    heartbeat = Heartbeat(limit_s=10, now=clock)
    server = OpsServer(registry, heartbeat.is_alive)
    server.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.port}"
    server.stop()
    server.stop()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_are_shown(base_url: str) -> None:
    status, text = get(f"{base_url}/metrics")

    assert status == 200
    assert 'meshserve_rpc_handled_total{code="OK",method="/a/B"} 1.0' in text


def test_healthz_turns_when_the_loop_stops_turning(base_url: str, clock: Clock) -> None:
    assert get(f"{base_url}/healthz") == (200, "ok\n")

    clock.now_s += 11

    assert get(f"{base_url}/healthz")[0] == 503


def test_unknown_path_says_what_is_known(base_url: str) -> None:
    assert get(f"{base_url}/etc") == (404, "known paths: /metrics, /healthz\n")
