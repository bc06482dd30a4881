"""A run passes when nothing failed, nothing was wrong and nothing is left; what is on paper says which it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.chaos.faults import Fault, FaultKind
from bench.chaos.load import Outcome
from bench.chaos.record import ChaosRecord, NumMembers, faults_during, most_at_once
from bench.chaos.report import failures_in_words, percentile, show
from bench.machine import Machine

MACHINE = Machine(cpu="c", num_cpus=2, cpu_flags=(), memory_gib=1.0, kernel="k", python="3")
FINE = Outcome("id-1", "chat 1", "chat", 1.0, 3.0, 0.5, 20)
FAILED = Outcome("id-2", "chat 2", "chat", 4.0, 6.0, 2.0, 3, error="UNAVAILABLE: died")
WRONG = Outcome("id-3", "Score 0", "Score", 7.0, 8.0, 1.0, 1, difference="output 0: text differ")
FAULTS = (Fault(FaultKind.KILL, "predictor-1", 3.5, 9.0), Fault(FaultKind.DRAIN, "transformer-0", 20.0, 25.0, 2.5))


def record_of(**fields: Any) -> ChaosRecord:
    whole: dict[str, Any] = {
        "date": "2026-11-30T18:00:00+00:00", "commit": "abc", "machine": MACHINE, "seed": 1, "concurrency": 2,
        "seconds": 30.0, "num_asks": 2, "outcomes": (FINE,), "faults": FAULTS, "trouble": (), "orphans": (),
        "gateway_bytes": (1 << 20, 2 << 20), "num_moved": 7, "num_members": NumMembers(3, 2),
    }  # fmt: skip
    return ChaosRecord(**{**whole, **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"outcomes": (FINE, FAILED)},
            "failed: 4.0–6.0 s, chat 2 (id-2): UNAVAILABLE: died; meanwhile: kill -9 of",
        ),
        ({"outcomes": (FINE, WRONG)}, "wrong: 7.0–8.0 s, Score 0 (id-3): output 0: text differ"),
        ({"trouble": ("predictor-1 does not come back",)}, "trouble: predictor-1"),
        ({"orphans": ("python -m predictor.llm.worker",)}, "left over: python -m predictor.llm.worker"),
    ],
)
def test_whatever_went_wrong_fails_the_run_and_is_told(fields: dict[str, Any], words: str) -> None:
    record = record_of(**fields)

    (line,) = failures_in_words(record)
    assert not record.has_passed and line.startswith(words)


def test_a_run_without_requests_proves_nothing() -> None:
    assert record_of().has_passed
    assert not record_of(outcomes=()).has_passed


def test_a_run_in_which_nobody_was_healthy_proves_nothing() -> None:
    everybody = tuple(Fault(FaultKind.KILL, f"transformer-{number}", 2.0, 4.0 + number) for number in range(2))

    assert record_of().fewest_healthy == (2, 1)
    assert not record_of(faults=everybody).has_passed


def test_faults_at_once_are_counted_by_member() -> None:
    one, again, other = (
        Fault(FaultKind.KILL, "predictor-0", 1.0, 5.0),
        Fault(FaultKind.KILL, "predictor-0", 4.0, 9.0),
        Fault(FaultKind.KILL, "predictor-1", 6.0),
    )

    assert [most_at_once(faults) for faults in ((), (one,), (one, again), (one, other), (again, other))] == [
        0,
        1,
        1,
        1,
        2,
    ]


def test_the_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    record = record_of(outcomes=(FINE, FAILED, WRONG))

    record.write(tmp_path / "folder" / "chaos.json")

    assert ChaosRecord.model_validate_json((tmp_path / "folder" / "chaos.json").read_text()) == record


def test_the_tables_show_each_kind_of_request_and_of_fault(capsys: pytest.CaptureFixture[str]) -> None:
    show(record_of(outcomes=(FINE, FAILED, WRONG)), Console(width=160))

    shown = capsys.readouterr().out
    assert all(
        words in shown
        for words in (
            "chat",
            "Score",
            "SIGTERM",
            "kill -9",
            "7 times",
            "2 of 3 predictors",
            "1 MiB before, 2 MiB after",
        )
    )
    assert "3 requests in 30 s, 2 at a time, seed 1: 1 failed, 1 wrong; 2 faults: FAILED" in shown


def test_faults_during_a_request_are_those_that_were_on_at_some_moment_of_it() -> None:
    endless = Fault(FaultKind.FREEZE, "predictor-2", 8.0)
    faults = (*FAULTS, endless)

    assert faults_during(faults, 4.0, 6.0) == [FAULTS[0]]
    assert faults_during(faults, 9.0, 10.0) == [FAULTS[0], endless]
    assert faults_during(faults, 24.0, 30.0) == [FAULTS[1], endless]


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(1, 101)]

    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert percentile([], 0.5) == 0.0
