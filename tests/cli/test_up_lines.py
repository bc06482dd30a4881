"""`up` as lines: what a person needs to read, and nothing else."""

from __future__ import annotations

import pytest

from cli.up_lines import LineReporter, line_of
from deploy.local.events import (
    Event,
    ModelFailed,
    ModelProgress,
    Preparing,
    ServiceEnded,
    ServiceKilled,
    ServiceServing,
    ServiceSilent,
    ServiceStarted,
    StillWaiting,
    Warned,
)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Preparing("training"), "training (once)"),
        (ServiceStarted("gateway", 1), None),
        (ServiceServing("gateway", "h:1", 1.25), "gateway serves at h:1 (1.2 s)"),
        (ServiceServing("gateway", "h:1", 9.0, True), "gateway serves again at h:1"),
        (ServiceSilent("gateway"), "gateway does not serve, though its process runs"),
        (
            ServiceEnded("gateway", "was killed by SIGKILL", 0.2),
            "gateway was killed by SIGKILL; it starts again in 0.2 s",
        ),
        (ServiceKilled("gateway", 8), "gateway did not stop within 8 s and was killed"),
        (ModelFailed("m", "no space"), "model m cannot be served: no space"),
        (StillWaiting(("m (download)", "x"), 10.2), "not ready after 10 s, waiting for: m (download), x"),
        (Warned("odd"), "warning: odd"),
    ],
)
def test_each_event_has_its_line(event: Event, line: str | None) -> None:
    assert line_of(event) == line


def test_progress_is_told_at_each_quarter(capsys: pytest.CaptureFixture[str]) -> None:
    with LineReporter() as report:
        for done in range(0, 1_000_000_001, 1_000_000):
            report(ModelProgress("m", "download", done, 1_000_000_000))

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0] == "model m: download"
    assert lines[-1] == "model m: download, 1000 of 1000 MB"
