"""Tables, ratios and targets of a run that is made up so that each can be seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.llm import report
from bench.llm.figures import Figures
from bench.llm.meshserve import GATEWAY
from bench.llm.record import ContenderRecord, Point, RunRecord, Start
from bench.llm.summary import Summary
from bench.llm.targets import TARGETS, tokens_per_s, ttft_p50
from bench.machine import Machine
from bench.processes import CpuShares
from bench.spread import Spread

MACHINE = Machine(cpu="Test CPU", num_cpus=2, cpu_flags=("avx2",), memory_gib=8.0, kernel="6.1", python="3.11")
LLAMA, VLLM, W8A8 = "llama.cpp, 8 slots", "vLLM", "vLLM w8a8"


def contender(name: str, *, is_lower_quality: bool = False) -> ContenderRecord:
    return ContenderRecord(
        name=name, quality="q", protocol="p", version="1", note="", is_ours=name == GATEWAY,
        is_lower_quality=is_lower_quality,
    )  # fmt: skip


def point(
    name: str, round_number: int, rate: float, ttft: float | None = 10.0, *, errors: int = 0, others: float = 0.0
) -> Point:
    figures = Figures(
        num_answers=8, num_cancelled=0, errors=("broken",) * errors, prompt_tokens=(30, 30), output_tokens_per_s=rate,
        requests_per_s=1.0, ttft_p50_ms=ttft, ttft_p99_ms=ttft, itl_p50_ms=1.0, itl_p99_ms=2.0, tokens_per_part=1.0,
    )  # fmt: skip
    cpu = CpuShares(server=0.9, generator=0.05, others=others)
    return Point(contender=name, workload="chat c=1", round=round_number, figures=figures, cpu=cpu)


def run(*points: Point, starts: tuple[Start, ...] = ()) -> RunRecord:
    return RunRecord(
        date="2026-11-24T12:00:00+00:00", commit="abc", machine=MACHINE, rounds=3, points=points, starts=starts,
        contenders=(contender(GATEWAY), contender(LLAMA), contender(VLLM), contender(W8A8, is_lower_quality=True)),
        workloads=("chat c=1",),
    )  # fmt: skip


def test_ratios_are_taken_round_by_round() -> None:
    record = run(
        *(point(GATEWAY, i, rate) for i, rate in enumerate((100, 50, 200))),
        *(point(LLAMA, i, rate) for i, rate in enumerate((50, 25, 50))),
    )

    summary = Summary(record)

    assert summary.ratio(GATEWAY, LLAMA, "chat c=1", tokens_per_s) == Spread(2.0, 2.0, 4.0)
    assert summary.of(GATEWAY, "chat c=1", tokens_per_s) == Spread(100, 50, 200)


def test_the_best_peer_is_never_ours_and_pays_with_quality_only_where_that_is_allowed() -> None:
    record = run(point(GATEWAY, 0, 300), point(LLAMA, 0, 100), point(VLLM, 0, 120), point(W8A8, 0, 150))

    sheet = report.metric_sheet(Summary(record), "rate", tokens_per_s, higher_is_better=True)

    assert sheet.rows == (("chat c=1", "300", "100", "120", "150", "2.50 vLLM", "2.00 vLLM w8a8"),)


def test_the_best_latency_is_the_least() -> None:
    record = run(point(GATEWAY, 0, 1, 10.0), point(LLAMA, 0, 1, 40.0), point(VLLM, 0, 1, 20.0))

    sheet = report.metric_sheet(Summary(record), "TTFT", ttft_p50, higher_is_better=False)

    assert sheet.rows[0][-2] == "0.50 vLLM"


def test_a_point_whose_answers_failed_is_no_figure() -> None:
    record = run(point(GATEWAY, 0, 300), point(LLAMA, 0, 999, errors=1), point(LLAMA, 1, 999))

    sheet = report.metric_sheet(Summary(record), "rate", tokens_per_s, higher_is_better=True)

    assert sheet.rows == (("chat c=1", "300", "–", "–", "–", "–", "–"),)
    assert report.failures_sheet(record).rows[0][0] == f"{LLAMA}, chat c=1, round 1"


def test_a_round_without_a_value_leaves_no_median() -> None:
    record = run(point(GATEWAY, 0, 1, 10.0), point(GATEWAY, 1, 1, None))

    assert Summary(record).of(GATEWAY, "chat c=1", ttft_p50) is None


def test_what_others_disturbed_is_marked() -> None:
    record = run(point(GATEWAY, 0, 300, others=0.3), point(VLLM, 0, 100))

    sheet = report.metric_sheet(Summary(record), "rate", tokens_per_s, higher_is_better=True)

    assert sheet.rows[0][1] == "300*"
    assert sheet.rows[0][5] == "3.00* vLLM"


def test_targets_are_reached_at_their_bound_and_missed_below() -> None:
    def chat(rate: float) -> tuple[str, str, str, str]:
        record = run(point(GATEWAY, 0, rate), point(LLAMA, 0, 100))
        return next(row for row in report.targets_sheet(Summary(record)).rows if "llama.cpp" in row[0])  # type: ignore[return-value]

    assert chat(120)[1:] == ("≥ 1.2", "1.20", "yes")
    assert chat(110)[1:] == ("≥ 1.2", "1.10", "no")


def test_a_latency_target_is_reached_below_its_bound() -> None:
    target = next(target for target in TARGETS if target.workload == "long c=1")

    assert target.is_reached(Spread(0.6, 0.6, 0.6)) and not target.is_reached(Spread(0.7, 0.7, 0.7))


def test_start_and_memory_have_their_targets() -> None:
    start = Start(contender=GATEWAY, round=0, start_s=3.5, idle_memory_mb=300, peak_memory_mb=900)

    rows = report.targets_sheet(Summary(run(starts=(start,)))).rows

    assert rows[-2:] == (("MeshServe, start, s", "≤ 3", "3.5", "no"), ("MeshServe, peak, MB", "≤ 1000", "900", "yes"))


def test_every_target_names_a_workload_that_there_is() -> None:
    from bench.llm.workloads import WORKLOADS

    assert {target.workload for target in TARGETS} <= {workload.name for workload in WORKLOADS}


def test_a_run_is_read_back_as_it_was_written_and_shown_as_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(point(GATEWAY, 0, 300), point(VLLM, 0, 100))
    record.write(tmp_path / "new" / "run.json")

    status = report.main([str(tmp_path / "new" / "run.json"), "--markdown"])

    assert status == 0
    assert RunRecord.read(tmp_path / "new" / "run.json") == record
    assert "| chat c=1 | 300 | – | 100 | – | 3.00 vLLM | 3.00 vLLM |" in capsys.readouterr().out


def test_a_file_that_is_no_run_is_refused_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")

    assert report.main([str(tmp_path / "x.json")]) == 1
    assert "x.json" in capsys.readouterr().err
