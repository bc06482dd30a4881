"""Tables and targets of the tensor benchmark, from a run that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.machine import Machine
from bench.oip import report
from bench.oip.limits import AIO
from bench.oip.meshserve import DIRECT, PAIR
from bench.oip.record import ContenderRecord, Point, RunRecord
from bench.oip.targets import KSERVE, TARGETS, Target
from bench.oip.workloads import WORKLOADS
from bench.spread import Spread

MACHINE = Machine(cpu="Test CPU", num_cpus=2, cpu_flags=(), memory_gib=8.0, kernel="6.1", python="3.11")
CPU = Target(DIRECT, AIO, "gRPC c=8", 1.3, ("predictor", "echo"))
RATE = Target(PAIR, KSERVE, "gRPC c=8", 2.0)


def point(contender: str, round_number: int, rate: float, cpu_us: dict[str, float], error: str | None = None) -> Point:
    return Point(
        contender=contender, workload="gRPC c=8", round=round_number, requests_per_s=rate, p50_ms=1.0, p99_ms=2.0,
        cpu_us=cpu_us, peak_mb=dict.fromkeys(cpu_us, 50.0), others_cpus=0.2, error=error,
    )  # fmt: skip


def run(*points: Point) -> RunRecord:
    names = dict.fromkeys(each.contender for each in points)
    known = [ContenderRecord(name=name, version="1", note="", is_ours=False, is_limit=False) for name in names]
    return RunRecord(
        date="2026-11-24T12:00:00+00:00", commit="abc", machine=MACHINE, rounds=2, points=points,
        contenders=tuple(known), workloads=("gRPC c=8",),
    )  # fmt: skip


def test_targets_compare_within_a_round() -> None:
    record = run(
        *(point(DIRECT, i, 1.0, {"predictor": us}) for i, us in enumerate((200, 400))),
        *(point(AIO, i, 1.0, {"echo": us}) for i, us in enumerate((100, 400))),
        *(point(PAIR, i, rate, {}) for i, rate in enumerate((300, 100))),
        *(point(KSERVE, i, rate, {}) for i, rate in enumerate((100, 50))),
    )

    cpu, rate = CPU.ratio(record), RATE.ratio(record)

    assert cpu == Spread(1.5, 1.0, 2.0) and not CPU.is_reached(cpu)
    assert rate == Spread(2.5, 2.0, 3.0) and RATE.is_reached(rate)


def test_a_failed_answer_leaves_no_figure_and_is_listed() -> None:
    record = run(point(DIRECT, 0, 1.0, {"predictor": 1.0}), point(DIRECT, 1, 0.0, {"predictor": 1.0}, "refused"))

    tables = {sheet.title: sheet for sheet in report.sheets(record)}

    assert tables["Requests/s"].rows == ((DIRECT, "–"),)
    assert tables["Failures"].rows == ((f"{DIRECT}, gRPC c=8, round 2", "refused"),)
    assert CPU.ratio(record) is None


def test_cpu_is_shown_by_process_and_in_all() -> None:
    record = run(point("two", 0, 1.0, {"gateway": 300.0, "predictor": 200.0}))

    tables = {sheet.title: sheet for sheet in report.sheets(record)}

    assert tables["CPU µs a request, all processes of the server"].rows == (("two", "500"),)
    assert tables["CPU µs a request by process"].rows == (("two: gateway", "300"), ("two: predictor", "200"))


def test_a_record_is_read_as_it_was_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(point(DIRECT, 0, 1234.0, {"predictor": 1.0}))
    path = tmp_path / "deep" / "oip.json"
    record.write(path)

    assert RunRecord.read(path) == record
    assert report.main([str(path), "--markdown"]) == 0
    assert f"| {DIRECT} | 1,234 |" in capsys.readouterr().out
    path.write_text("no record", encoding="utf-8")
    assert report.main([str(path)]) == 1


def test_every_target_names_a_workload_and_a_quick_look_keeps_concurrency() -> None:
    assert {target.workload for target in TARGETS} <= {workload.name for workload in WORKLOADS}
    assert all(workload.scaled(0.00001).load.num_requests == workload.load.concurrency for workload in WORKLOADS)
