"""Events are plain values; progress has words."""

from __future__ import annotations

from deploy.local.events import ModelProgress


def test_progress_without_a_number_is_its_stage() -> None:
    assert ModelProgress("m", "resolve", 0, None).words == "resolve"


def test_progress_of_bytes_without_a_total_says_what_came() -> None:
    assert ModelProgress("m", "download", 5_000_000, None).words == "download, 5 MB"


def test_progress_of_work_without_a_total_is_its_stage() -> None:
    assert ModelProgress("m", "warm", 3, None).words == "warm"
