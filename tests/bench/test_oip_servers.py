"""Bare servers and clients of the tensor benchmark, for real on free ports: what they say is what came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path

import grpc.aio
import pytest

from bench.oip import h2load, limits
from bench.oip.bare import _Handlers
from bench.oip.contender import Contender
from bench.oip.h2load import H2Load
from bench.oip.load import BadLoad, Load
from bench.oip.message import SMALL
from bench.oip.probe import NoAnswer, wait_for_grpc, wait_for_rest
from bench.oip.python_client import STREAM, UNARY, PythonClient
from bench.processes import reset_peak, tree_cpu_s, tree_peak_bytes
from bench.server_process import spawn, stop

LOAD = Load(40, 4)


def limit(name: str) -> Contender:
    return next(each for each in limits.contenders() if each.name == name)


@pytest.mark.parametrize("name", [limits.AIO, limits.SYNC, limits.PROXY])
async def test_a_bare_grpc_server_answers_unary_calls_and_streams(name: str, tmp_path: Path) -> None:
    setup = limit(name).setup(tmp_path)
    with ExitStack() as ending:
        for process_name, command in setup.processes.items():
            process = spawn(command, tmp_path / f"{process_name}.log")
            ending.callback(stop, process)
        (port,) = setup.grpc
        assert wait_for_grpc(port, SMALL, 60) == len(SMALL.response)
        reset_peak(process.pid)
        before_s = tree_cpu_s(process.pid)
        runs = [await PythonClient(kind).run(port, LOAD, tmp_path) for kind in (UNARY, STREAM)]

        assert [len(run.latencies_s) for run in runs] == [LOAD.num_requests] * 2
        assert all(0 < latency_s <= run.took_s for run in runs for latency_s in run.latencies_s)
        assert tree_cpu_s(process.pid) >= before_s
        assert tree_peak_bytes(process.pid) > 1 << 20


async def test_a_bare_http_server_answers(tmp_path: Path) -> None:
    setup = limit(limits.ASGI).setup(tmp_path)
    process = spawn(setup.processes["echo"], tmp_path / "log")
    try:
        assert wait_for_rest(setup.rest[0], SMALL, 60) == len(SMALL.json_response)
    finally:
        stop(process)


class Refusing:
    """Answers with a status, and on a stream with an error message or with another tensor."""

    async def unary(self, _request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        return b""

    async def stream(self, requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield b"\x0a\x02no"


@pytest.fixture
async def refusing() -> AsyncIterator[int]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handlers(Refusing().unary, Refusing().stream),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(None)


@pytest.mark.parametrize("kind", [UNARY, STREAM])
async def test_a_failed_answer_spoils_the_run(refusing: int, kind: str, tmp_path: Path) -> None:
    with pytest.raises(BadLoad):
        await PythonClient(kind).run(refusing, LOAD, tmp_path)


@pytest.mark.skipif(not h2load.is_installed(), reason="h2load is not installed")
async def test_h2load_notices_grpc_errors_by_their_weight(refusing: int, tmp_path: Path) -> None:
    with pytest.raises(BadLoad, match="bytes in all"):
        await H2Load(True, SMALL.request, len(SMALL.response)).run(refusing, LOAD, tmp_path)


@pytest.mark.skipif(not h2load.is_installed(), reason="h2load is not installed")
async def test_h2load_says_what_each_request_took(tmp_path: Path) -> None:
    setup = limit(limits.AIO).setup(tmp_path)
    process = spawn(setup.processes["echo"], tmp_path / "log")
    try:
        wait_for_grpc(setup.grpc[0], SMALL, 60)
        run = await H2Load(True, SMALL.request, len(SMALL.response)).run(setup.grpc[0], LOAD, tmp_path)
    finally:
        stop(process)

    assert len(run.latencies_s) == LOAD.num_requests
    assert all(0 < latency_s <= run.took_s for latency_s in run.latencies_s)


def test_a_server_that_is_not_there_gives_no_answer() -> None:
    with pytest.raises(NoAnswer, match="no answer within"):
        wait_for_grpc(1, SMALL, 0.2)
