"""The gateway's benchmark: hops and clients for real, on a few requests; tables and targets from a made-up run."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import grpc.aio
import pytest

from bench.gateway import report
from bench.gateway.backend import STEP_S, Handlers, Steps, generate, said_at_s
from bench.gateway.record import STREAM, UNARY, Memory, Pick, RunRecord, Slice
from bench.gateway.report import GATEWAY, PROXY, cpu_ratio, outcomes
from bench.gateway.rounds import WORKLOADS, Workload, run_memory, run_slice
from bench.gateway.servers import running
from bench.gateway.stream_client import TOKENS, StreamClient
from bench.machine import Machine
from bench.oip.load import BadLoad, Load
from bench.processes import process_cpu_s
from mesh.v1 import language_model_pb2 as lm

MACHINE = Machine(cpu="Test CPU", num_cpus=2, cpu_flags=(), memory_gib=8.0, kernel="6.1", python="3.11")


@pytest.mark.slow
async def test_both_hops_pass_calls_and_tokens_on(tmp_path: Path) -> None:
    workloads = (Workload(UNARY, Load(20, 4)), Workload(STREAM, Load(2, 2)))
    with running(tmp_path) as hops:
        slices = [await run_slice(hop, workload, 1, tmp_path) for workload in workloads for hop in hops]
        async with aclosing(run_memory(hops[1], 1e-9, tmp_path)) as memory:
            looks = [await anext(memory) for _ in range(2)]

    assert [(each.hop, each.kind, each.units) for each in slices] == [
        (PROXY, UNARY, 20),
        (GATEWAY, UNARY, 20),
        (PROXY, STREAM, 2 * TOKENS),
        (GATEWAY, STREAM, 2 * TOKENS),
    ]
    assert all(each.cpu_us > 0 and each.p50_ms > 0 and each.p99_ms >= each.p50_ms for each in slices)
    assert [look.requests for look in looks] == [32, 64]
    assert all(look.pss_mb > 1 for look in looks)


async def test_tokens_come_in_steps_that_all_streams_share() -> None:
    steps = Steps()
    first, second = steps.next_step(), steps.next_step()

    assert first is second
    earlier = await first
    later = await steps.next_step()
    assert later - earlier > STEP_S / 2


async def test_a_generation_is_what_a_predictor_says() -> None:
    request = lm.GenerateRequest(sampling=lm.SamplingParameters(max_tokens=3)).SerializeToString()

    messages = [message async for message in generate(request, Steps())]

    responses = [lm.GenerateResponse.FromString(message) for message in messages]
    assert [response.HasField("start") for response in responses] == [True, False, False, False]
    assert [said_at_s(message) is not None for message in messages] == [False, True, True, True]
    assert [response.finish_reason for response in responses][-1] == lm.FINISH_REASON_LENGTH


@pytest.mark.parametrize("num_tokens", [TOKENS - 1, None])
async def test_a_stream_that_is_short_or_fails_spoils_the_run(num_tokens: int | None, tmp_path: Path) -> None:
    async def on_unary(request: bytes, _context: object) -> bytes:
        return request

    async def on_generate(_request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> AsyncIterator[bytes]:
        if num_tokens is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no engine")
        for _ in range(num_tokens or 0):
            yield lm.GenerateResponse(text="1.0", token_ids=[1]).SerializeToString()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handlers(on_unary, on_generate),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(BadLoad, match="no engine" if num_tokens is None else f"a stream of {TOKENS - 1} tokens"):
            await StreamClient().run(port, Load(1, 1), tmp_path)
    finally:
        await server.stop(None)


def test_the_clock_of_a_process_is_its_cpu_time() -> None:
    before_s, times = process_cpu_s(os.getpid()), os.times()
    sum(range(3_000_000))
    used_s = process_cpu_s(os.getpid()) - before_s

    # os.times counts in ticks.
    tick_s = 2 / os.sysconf("SC_CLK_TCK")
    assert used_s > 0
    assert used_s == pytest.approx(sum(os.times()[:2]) - sum(times[:2]), abs=tick_s)


def piece(hop: str, round_number: int, cpu_us: float, kind: str = UNARY, p50_ms: float = 2.0) -> Slice:
    return Slice(
        hop=hop, kind=kind, concurrency=8, round=round_number, units=100, units_per_s=50.0, cpu_us=cpu_us,
        p50_ms=p50_ms, p99_ms=9.0, direct_p50_ms=0.5, direct_p99_ms=1.0,
    )  # fmt: skip


def run(*slices: Slice, memory: tuple[Memory, ...] = (), picks: tuple[Pick, ...] = ()) -> RunRecord:
    return RunRecord(
        date="2026-11-30T12:00:00+00:00", commit="abc", machine=MACHINE, rounds=2, client="h2load",
        workloads=("unary c=8",), slices=slices, memory=memory, picks=picks,
    )  # fmt: skip


SLICES = (
    *(piece(PROXY, number, us) for number, us in ((1, 400.0), (2, 800.0))),
    *(piece(GATEWAY, number, us, p50_ms=3.0) for number, us in ((1, 440.0), (2, 1040.0))),
)


def test_ratios_are_made_round_by_round() -> None:
    ratio = cpu_ratio(run(*SLICES), UNARY, 8)

    assert ratio is not None
    assert (ratio.least, ratio.median, ratio.greatest) == pytest.approx((1.1, 1.2, 1.3))


def test_latency_is_what_the_hop_adds() -> None:
    tables = {sheet.title: sheet for sheet in report.sheets(run(*SLICES))}

    assert tables["Latency that the hop adds to a call, ms"].rows == (("unary c=8", "1.50", "2.50", "8.00", "8.00"),)


@pytest.mark.parametrize(("last_mb", "median_us", "reached"), [(101.0, 49.0, True), (120.0, 51.0, False)])
def test_targets_say_whether_they_are_reached(last_mb: float, median_us: float, reached: bool) -> None:
    memory = (Memory(requests=20_000, pss_mb=100.0), Memory(requests=100_000, pss_mb=last_mb))
    picks = (Pick(policy="prefix_affinity", median_us=median_us, greatest_us=90.0),)

    found = {outcome.target: outcome.is_reached for outcome in outcomes(run(*SLICES, memory=memory, picks=picks))}

    assert found == {
        "CPU a call, unary c=8, gateway / bare byte proxy": True,
        "pick() of prefix_affinity among 256 replicas": reached,
        "memory after 100,000 requests / after 20,000": reached,
    }


def test_a_record_is_read_as_it_was_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(*SLICES, memory=(Memory(requests=20_000, pss_mb=100.0),))
    path = tmp_path / "deep" / "gateway.json"
    record.write(path)

    assert RunRecord.read(path) == record
    assert report.main([str(path), "--markdown"]) == 0
    assert "| unary c=8 | 600 (400–800) | 740 (440–1,040) | 1.20 (1.10–1.30) |" in capsys.readouterr().out
    path.write_text("no record", encoding="utf-8")
    assert report.main([str(path)]) == 1


def test_a_quick_look_keeps_concurrency() -> None:
    assert all(each.scaled(1e-9).load.num_requests == each.load.concurrency for each in WORKLOADS)
