"""`up` on a terminal: services and bars while it starts, then the addresses, then lines."""

from __future__ import annotations

import io

from rich.console import Console

from cli.up_live import LiveReporter
from deploy.local.events import (
    MeshReady,
    ModelFailed,
    ModelProgress,
    Preparing,
    ServiceEnded,
    ServiceServing,
    ServiceStarted,
    ServiceStopping,
    StillWaiting,
)
from deploy.local.run_info import DeploymentInfo, RunInfo, ServiceInfo

GATEWAY = ServiceInfo("gateway", "serving", 1, 1.0, 0, "127.0.0.1:8081", "127.0.0.1:9181", "127.0.0.1:8080", "x")
INFO = RunInfo(1, 1.0, "http://127.0.0.1:8080", (GATEWAY,), (DeploymentInfo("m", "llm", None),))


def make_reporter() -> tuple[LiveReporter, Console]:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    return LiveReporter(console), console


def drawn(reporter: LiveReporter) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(reporter._drawing())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_drawing_shows_what_is_awaited() -> None:
    reporter, _ = make_reporter()
    with reporter:
        reporter(Preparing("training the iris classifier"))
        assert "training the iris classifier" in drawn(reporter)
        reporter(ServiceStarted("registry", 1))
        reporter(ServiceServing("registry", "127.0.0.1:8090", 0.8))
        reporter(ServiceStarted("predictor", 2))
        reporter(ModelProgress("smollm2", "download", 12_000_000, 98_000_000))
        reporter(StillWaiting(("predictor (starting)",), 10))
        text = drawn(reporter)

    assert "✓ 127.0.0.1:8090  0.8 s" in text
    assert "starting" in text
    assert "download, 12 of 98 MB" in text
    assert "10 s, waiting for predictor" in text


def test_when_ready_the_addresses_stay_and_later_news_are_lines() -> None:
    reporter, console = make_reporter()
    with reporter:
        reporter(ModelFailed("broken", "its file is truncated"))
        reporter(MeshReady(6.5, INFO))
        reporter(ServiceEnded("gateway", "was killed by SIGKILL", 0.2))
        reporter(ServiceStopping("gateway"))

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "model broken cannot be served: its file is truncated" in text
    assert "The mesh is ready after 6.5 s" in text
    assert "gateway was killed by SIGKILL; it starts again in 0.2 s" in text
    assert "stopping gateway" in text
