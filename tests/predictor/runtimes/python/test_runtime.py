"""The runtime `python`: real classes in real processes, and every way in which one can go wrong."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from examples.standard_scaler import StandardScaler, write
from mesh.context import RequestContext, bind
from mesh.errors import (
    CorruptArtifact,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    MeshError,
    Overloaded,
    PermissionDenied,
    Unavailable,
    Unsupported,
)
from predictor.runtimes.base import DecoupledRuntime, ModelArtifact
from predictor.runtimes.python.runtime import PythonRuntime
from tests.predictor.running import eventually
from tests.predictor.runtimes.python.models import COUNTDOWN, UNRULY, HealthLog, folder_with, load, running, said, word


@pytest.fixture
def unruly(tmp_path: Path) -> Path:
    return folder_with(tmp_path / "unruly", UNRULY)


@pytest.fixture
def countdown(tmp_path: Path) -> Path:
    return folder_with(tmp_path / "countdown", COUNTDOWN)


def lines(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model's process printed."""
    return [event["line"] for event in events if event["event"] == "model_output"]


async def test_a_class_answers_as_it_does_without_a_server(tmp_path: Path) -> None:
    write(tmp_path)
    alone = StandardScaler()
    alone.load(str(tmp_path))
    rows = np.random.default_rng(1).normal(size=(7, 3)).astype(np.float32)
    rows.flags.writeable = False

    async with running(tmp_path) as runtime:
        answer = await runtime.infer({"rows": rows})
        metadata = runtime.metadata
        with pytest.raises(InvalidInput, match="rows must be finite numbers"):
            await runtime.infer({"rows": np.full((1, 3), np.nan, np.float32)})

    np.testing.assert_array_equal(answer["scaled"], alone.infer({"rows": rows})["scaled"])
    assert (metadata.max_batch_size, metadata.is_decoupled, metadata.backend) == (1024, False, "python")


async def test_code_that_nobody_trusts_is_not_run(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    runtime = PythonRuntime()

    with pytest.raises(PermissionDenied, match="an operator who trusts its author sets trust_model_code"):
        await runtime.load(ModelArtifact("m", "1", folder, "0" * 64), lambda *_: None, lambda *_: None)

    await runtime.unload()
    assert not (tmp_path / "ran").exists()


async def test_16_mib_go_there_and_back(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m",
        """
        class Echo:
            inputs = {"x": ("FP32", [-1])}
            outputs = {"x": ("FP32", [-1])}
            def infer(self, inputs):
                return inputs
        """,
    )
    array = np.random.default_rng(2).normal(size=4 << 20).astype(np.float32)

    async with running(folder) as runtime:
        answer = await runtime.infer({"x": array})

    np.testing.assert_array_equal(answer["x"], array)


async def test_the_process_has_an_environment_and_a_folder_of_its_own(unruly: Path) -> None:
    async with running(unruly, environment='{"CUDA_VISIBLE_DEVICES": "0"}', num_threads="3") as runtime:
        assert await said(runtime, "variable CUDA_VISIBLE_DEVICES") == "0"
        assert await said(runtime, "variable OMP_NUM_THREADS") == "3"
        assert "PYTEST_CURRENT_TEST" not in await said(runtime, "environ")
        assert await said(runtime, "modules torch") == "False"
        assert await said(runtime, "modules grpc") == "False"
        folder = Path(await said(runtime, "cwd"))
        assert folder.is_dir()
        assert folder != Path.cwd()

    assert not folder.exists()


async def test_what_it_prints_becomes_log_events(unruly: Path) -> None:
    with capture_logs() as events:
        async with running(unruly) as runtime:
            await said(runtime, "show hello there")

    assert lines(events) == ["hello there", "to stderr"]


async def test_an_exception_is_logged_whole_and_told_by_its_request_id(unruly: Path) -> None:
    with capture_logs() as events:
        async with running(unruly) as runtime:
            with bind(RequestContext("r-42")), pytest.raises(Internal) as failure:
                await said(runtime, "fail sauce")
            assert await said(runtime, "calls") == "2"  # the process goes on

    assert failure.value.message == "model 'm' failed; the logs have it (request r-42)"
    assert "RuntimeError: secret sauce" in next(e["traceback"] for e in events if e["event"] == "model_raised")


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ("refuse unicorns", InvalidInput, "^no such thing: unicorns$"),
        ("mistype", Internal, "answers wrongly: output 'said' has dtype float64; it is declared BYTES"),
        ("hog 4000000000", Internal, r"needs more memory than the 2147483648 bytes of its memory_limit_bytes"),
    ],
)
async def test_what_goes_wrong_in_the_class_has_its_own_error(
    unruly: Path, text: str, error: type[MeshError], sentence: str
) -> None:
    health = HealthLog()
    async with running(unruly, health, memory_limit_bytes=str(2 << 30)) as runtime:
        pid = await said(runtime, "pid")
        with pytest.raises(error, match=sentence):
            await said(runtime, text)
        assert await said(runtime, "pid") == pid

    assert health.told == []


@pytest.mark.parametrize(
    ("text", "ending"), [("leave 3", "ended with exit status 3"), ("segfault", "was ended by SIGSEGV")]
)
async def test_a_crash_fails_its_own_request_and_the_model_comes_back(unruly: Path, text: str, ending: str) -> None:
    health = HealthLog()
    async with running(unruly, health) as runtime:
        pid = await said(runtime, "pid")

        crash = asyncio.create_task(said(runtime, text))
        waiting = [asyncio.create_task(said(runtime, f"say {number}")) for number in range(5)]

        with pytest.raises(Internal, match=f"model 'm' {ending} while it computed this request"):
            await crash
        assert await asyncio.gather(*waiting) == ["0", "1", "2", "3", "4"]
        assert await said(runtime, "pid") != pid

    assert health.told == [(False, f"its process {ending}; another one starts"), (True, "")]


async def test_a_process_that_ends_while_idle_is_replaced(unruly: Path) -> None:
    health = HealthLog()
    async with running(unruly, health) as runtime:
        os.kill(int(await said(runtime, "pid")), 9)

        async def is_back() -> bool:
            return len(health.told) == 2

        await eventually(is_back, 60, "the model is back")
        assert await said(runtime, "say hello") == "hello"

    assert health.told == [(False, "its process was ended by SIGKILL; another one starts"), (True, "")]


async def test_a_request_that_takes_too_long_ends_and_the_next_is_answered(unruly: Path) -> None:
    async with running(unruly, timeout_s="0.5") as runtime:
        slow = asyncio.create_task(said(runtime, "hang"))
        waiting = asyncio.create_task(said(runtime, "say next"))

        with pytest.raises(DeadlineExceeded, match=r"has not answered within 0\.5 s, its timeout_s"):
            await slow
        assert await waiting == "next"


async def test_a_cancelled_request_that_has_not_begun_is_not_computed(unruly: Path, tmp_path: Path) -> None:
    wake = tmp_path / "wake"
    async with running(unruly) as runtime:
        first = asyncio.create_task(said(runtime, f"nap {wake}"))
        second = asyncio.create_task(said(runtime, "say never"))

        async def began() -> bool:
            return (tmp_path / "wake.began").exists()

        await eventually(began, 60, "the first request runs")
        second.cancel()
        wake.touch()

        assert await first == "woke"
        assert await said(runtime, "calls") == "2"


async def test_a_request_cancelled_while_it_runs_leaves_the_process_to_the_next(unruly: Path, tmp_path: Path) -> None:
    wake = tmp_path / "wake"
    async with running(unruly) as runtime:
        pid = await said(runtime, "pid")
        first = asyncio.create_task(said(runtime, f"nap {wake}"))

        async def began() -> bool:
            return (tmp_path / "wake.began").exists()

        await eventually(began, 60, "the first request runs")
        first.cancel()
        next_one = asyncio.create_task(said(runtime, "pid"))
        await asyncio.gather(first, return_exceptions=True)
        wake.touch()

        assert await next_one == pid


async def test_more_requests_than_may_wait_are_refused(unruly: Path, tmp_path: Path) -> None:
    wake = tmp_path / "wake"
    async with running(unruly, max_pending="2") as runtime:
        pending = [asyncio.create_task(said(runtime, f"nap {wake}")) for _ in range(2)]
        await asyncio.sleep(0)

        with pytest.raises(Overloaded, match="has 2 calls waiting, as many as it takes"):
            await said(runtime, "say too much")

        wake.touch()
        assert await asyncio.gather(*pending) == ["woke", "woke"]


async def test_two_workers_compute_at_the_same_time(unruly: Path, tmp_path: Path) -> None:
    wake = tmp_path / "wake"
    health = HealthLog()
    async with running(unruly, health, num_workers="2") as runtime:
        napping = asyncio.create_task(said(runtime, f"nap {wake}"))
        assert await said(runtime, "say meanwhile") == "meanwhile"
        with pytest.raises(Internal):
            await said(runtime, "leave 1")
        wake.touch()
        assert await napping == "woke"

    assert health.told == []  # one of two is enough


async def test_a_stream_is_answered_as_the_class_yields(countdown: Path) -> None:
    async with running(countdown) as runtime:
        assert isinstance(runtime, DecoupledRuntime)
        assert runtime.metadata.is_decoupled
        streams = [runtime.infer_stream({"n": np.array([n])}) for n in (3, 0, 2)]
        answers = [[int(answer["left"][0]) async for answer in stream] for stream in streams]
        assert answers == [[2, 1, 0], [], [1, 0]]
        assert (await runtime.infer({"n": np.array([5])}))["left"] == [0]


async def test_a_stream_that_its_reader_leaves_is_closed(countdown: Path) -> None:
    with capture_logs() as events:
        async with running(countdown) as runtime:
            stream = runtime.infer_stream({"n": np.array([10**9])})
            await anext(stream)
            await stream.aclose()
            assert (await runtime.infer({"n": np.array([5])}))["left"] == [0]

    assert lines(events) == ["closed"]


async def test_a_stream_that_nobody_reads_does_not_keep_the_process_from_others(countdown: Path) -> None:
    async with running(countdown, timeout_s="0.5") as runtime:
        stream = runtime.infer_stream({"n": np.array([10**9])})
        await anext(stream)

        assert (await runtime.infer({"n": np.array([5])}))["left"] == [0]
        with pytest.raises(DeadlineExceeded, match=r"has waited 0\.5 s, its timeout_s, for its answer to be read"):
            await anext(stream)


async def test_a_stream_that_fails_in_the_middle_fails_there(countdown: Path) -> None:
    answers = []
    async with running(countdown) as runtime:
        with pytest.raises(Internal, match="model 'm' failed"):
            async for answer in runtime.infer_stream({"n": np.array([15])}):
                answers.append(int(answer["left"][0]))
        assert (await runtime.infer({"n": np.array([5])}))["left"] == [0]

    assert answers == [14, 13]


async def test_a_class_with_streams_only_says_so(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m",
        """
        class Once:
            inputs = {"x": ("FP32", [1])}
            outputs = {"x": ("FP32", [1])}
            def infer_stream(self, inputs):
                yield inputs
        """,
    )
    one = np.ones(1, np.float32)

    async with running(folder) as runtime:
        assert isinstance(runtime, DecoupledRuntime)
        assert [answer["x"] async for answer in runtime.infer_stream({"x": one})] == [one]
        with pytest.raises(Unsupported, match="ask for it by ModelStreamInfer"):
            await runtime.infer({"x": one})


@pytest.mark.parametrize(
    ("source", "error", "sentence"),
    [
        ("class Model: pass", CorruptArtifact, "has no class with a method 'infer'"),
        ("def infer(:", CorruptArtifact, r"model 'm' fails to load: model\.py line 1: invalid syntax"),
        ("import no_such_package", CorruptArtifact, "the package 'no_such_package' is not installed"),
        ("open('/no/such/file')", CorruptArtifact, "model 'm' fails to load: FileNotFoundError$"),
        ("import os; os._exit(7)", CorruptArtifact, "model 'm' ended with exit status 7 while it loaded"),
        ("import time; time.sleep(3600)", Unavailable, r"has not loaded within 0\.7 s, its load_timeout_s"),
        ("x = b'x' * (4 << 30)", Unavailable, "needs more memory to load than the 2147483648 bytes"),
    ],
)
async def test_a_class_that_does_not_load_says_why(
    tmp_path: Path, source: str, error: type[MeshError], sentence: str
) -> None:
    options = {"memory_limit_bytes": str(2 << 30), "load_timeout_s": "0.7" if "sleep" in source else "60"}
    runtime = PythonRuntime()

    with pytest.raises(error, match=sentence) as failure:
        await load(runtime, folder_with(tmp_path / "m", source), **options)

    assert str(tmp_path) not in failure.value.message
    await runtime.unload()


async def test_requests_are_not_left_waiting_for_a_model_that_does_not_come_back(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", UNRULY)
    async with running(folder, max_restart_delay_s="0") as runtime:
        crash = asyncio.create_task(said(runtime, "leave 1"))
        waiting = asyncio.create_task(said(runtime, "say hello"))
        (folder / "model.py").write_text("gone = True")

        with pytest.raises(Internal):
            await crash
        with pytest.raises(Unavailable, match="has lost its process, and no other one starts"):
            await waiting

        folder_with(folder, UNRULY)

        async def is_back() -> bool:
            try:
                return await said(runtime, "say hello") == "hello"
            except Unavailable:
                return False

        await eventually(is_back, 60, "the model is back")


async def test_unload_is_told_to_the_class(tmp_path: Path) -> None:
    folder = folder_with(
        tmp_path / "m", UNRULY + f"    def unload(self): open({str(tmp_path / 'bye')!r}, 'w').close()\n"
    )

    async with running(folder):
        pass

    assert (tmp_path / "bye").exists()


async def test_nothing_is_answered_after_unload(unruly: Path) -> None:
    async with running(unruly) as runtime:
        pass

    with pytest.raises(Unavailable, match="is unloaded"):
        await runtime.infer(word("say hello"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_workers": "0"}, "option 'num_workers' is 0; it must be 1 to 64"),
        ({"timeout_s": "soon"}, "option 'timeout_s' is 'soon'; it must be of type float"),
        ({"timeout_s": "nan"}, r"option 'timeout_s' is nan; it must be 0\.001 to"),
        ({"environment": "PATH"}, "option 'environment' must be a JSON object of texts by name"),
        ({"environment": '{"A": 1}'}, "option 'environment' must be a JSON object of texts by name"),
        ({"environment": '{"A=B": "1"}'}, "option 'environment' must be a JSON object of texts by name"),
    ],
)
async def test_a_wrong_option_is_named(tmp_path: Path, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await load(PythonRuntime(), tmp_path, **options)


async def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(UNRULY)

    with pytest.raises(CorruptArtifact, match="a folder with model.py"):
        await load(PythonRuntime(), tmp_path / "model.py")
