"""The engine process, spoken to over its pipe as the client would: it loads, answers, and ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

import psutil
import pytest

from mesh.errors import CorruptArtifact, Internal, InvalidInput, Overloaded
from predictor.llm.messages import Abort, Add, EngineSpec, LoadFailed, Loading, Message, Ping, Ready, Report, Stop
from predictor.llm.outputs import FailedOutput, GenerationOutput
from predictor.llm.settings import EngineSettings
from predictor.llm.worker import MAX_COMMANDS_PER_STEP
from tests.predictor.llm.engines import GREEDY, generation
from tests.predictor.llm.hash_model import continuation

SPEC = EngineSpec(
    Path("hash"), EngineSettings(kv_cache_bytes=1024 * 1024, max_num_seqs=2), "tests.predictor.llm.hash_model:load"
)


class Engine:
    """An engine process with its pipe."""

    def __init__(self, spec: EngineSpec) -> None:
        self.pipe, engine_end = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "predictor.llm.worker", str(engine_end.fileno()), str(os.getpid())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[engine_end.fileno()],
        )
        engine_end.close()
        self.send(spec)

    def send(self, message: Any) -> None:
        self.pipe.send(message)

    def receive(self) -> Message:
        assert self.pipe.poll(20), "the engine says nothing"
        message: Message = self.pipe.recv()
        return message

    def until_ready(self) -> Ready:
        while not isinstance(message := self.receive(), Ready):
            assert isinstance(message, Loading)
        return message

    def report(self) -> Report:
        message = self.receive()
        assert isinstance(message, Report)
        return message

    def exit_status(self) -> int:
        return self.process.wait(20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self.pipe.close()


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(SPEC)
    engine.until_ready()
    yield engine
    engine.close()


@pytest.fixture
def unready(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = Engine(request.param)
    yield engine
    engine.close()


@pytest.mark.parametrize("unready", [SPEC], indirect=True)
def test_it_says_how_far_the_load_is_and_what_it_is(unready: Engine) -> None:
    info = unready.until_ready().info

    assert (info.num_blocks, info.block_size) == (64, 16)
    assert info.kv_cache_bytes == 1024 * 1024
    assert info.limits.max_context_tokens == 64 * 16  # less than the model's own: the KV cache holds no more


@pytest.mark.parametrize("unready", [replace(SPEC, path=Path("corrupt"))], indirect=True)
def test_a_load_that_fails_says_why_and_ends(unready: Engine) -> None:
    while isinstance(message := unready.receive(), Loading):
        pass

    assert isinstance(message, LoadFailed)
    assert isinstance(message.error, CorruptArtifact)
    assert unready.exit_status() == 1


@pytest.mark.parametrize("unready", [replace(SPEC, factory="no.such:factory")], indirect=True)
def test_an_unexpected_failure_of_the_load_is_told_without_its_stack(unready: Engine) -> None:
    message = unready.receive()

    assert isinstance(message, LoadFailed)
    assert isinstance(message.error, Internal)
    assert message.error.message == "loading hash failed; the engine's log says why"


@pytest.mark.parametrize("unready", [replace(SPEC, settings=replace(SPEC.settings, kv_cache_bytes=100))], indirect=True)
def test_a_kv_cache_without_room_for_a_block_is_refused(unready: Engine) -> None:
    while isinstance(message := unready.receive(), Loading):
        pass

    assert isinstance(message, LoadFailed)
    assert isinstance(message.error, InvalidInput)


def test_one_report_a_step_has_the_outputs_of_all_requests(engine: Engine) -> None:
    for name, token in (("a", 1), ("b", 2)):
        engine.send(Add(generation(name, (token,), 50), 0.0))
    tokens: dict[str, list[int]] = {"a": [], "b": []}
    while len(tokens["a"]) < 50 or len(tokens["b"]) < 50:
        is_shared = bool(tokens["b"]) and len(tokens["a"]) < 50
        outputs = engine.report().outputs
        for output in outputs:
            assert isinstance(output, GenerationOutput)
            tokens[output.request_id] += output.token_ids
        if is_shared and outputs:
            assert [output.request_id for output in outputs] == ["a", "b"]

    assert tokens == {"a": continuation((1,), 50, GREEDY), "b": continuation((2,), 50, GREEDY)}


def test_a_refusal_comes_back_as_an_output(engine: Engine) -> None:
    engine.send(Add(generation("wrong", ()), 0.0))

    (output,) = engine.report().outputs

    assert isinstance(output, FailedOutput)
    assert output.request_id == "wrong"
    assert isinstance(output.error, InvalidInput)


def test_requests_beyond_the_bound_are_refused_and_the_others_run(engine: Engine) -> None:
    engine.send(Add(generation("first", max_tokens=1000), 0.0))
    for index in range(SPEC.settings.max_num_requests):
        engine.send(Add(generation(f"{index}", max_tokens=1000), 0.0))

    refused: list[FailedOutput] = []
    while not refused:
        refused += [output for output in engine.report().outputs if isinstance(output, FailedOutput)]

    assert [type(output.error) for output in refused] == [Overloaded]


def test_a_flood_of_commands_does_not_hold_up_what_runs(engine: Engine) -> None:
    engine.send(Add(generation("a", max_tokens=1000), 0.0))
    for _ in range(20 * MAX_COMMANDS_PER_STEP):
        engine.send(Abort("unknown"))
    engine.send(Stop())

    num_tokens = 0
    try:
        while True:
            num_tokens += len(engine.report().outputs)
    except EOFError:
        assert num_tokens >= 20


def test_a_ping_is_answered_when_idle(engine: Engine) -> None:
    engine.send(Ping())

    report = engine.report()

    assert report.outputs == ()
    assert report.stats.num_free_blocks == report.stats.num_blocks == 64


def test_it_stops_when_told_to(engine: Engine) -> None:
    engine.send(Add(generation(max_tokens=1000), 0.0))
    engine.send(Stop())

    assert engine.exit_status() == 0


def test_it_ends_when_the_other_end_of_the_pipe_closes(engine: Engine) -> None:
    engine.pipe.close()

    assert engine.exit_status() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_the_whole_group_are_the_parents_to_answer(engine: Engine, number: signal.Signals) -> None:
    engine.process.send_signal(number)
    engine.send(Ping())

    assert isinstance(engine.receive(), Report)


PARENT = """
    import os, subprocess, sys
    from multiprocessing.connection import Pipe
    from tests.predictor.llm.test_worker import Engine, SPEC, generation, Add, replace, Path
    engine = Engine({spec})
    {then}
    print(engine.process.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("spec", "then"),
    [
        ("SPEC", "engine.until_ready()"),
        ("SPEC", "engine.until_ready(); engine.send(Add(generation(prompt=(1, 298)), 0.0))"),  # hangs in a step
        ("replace(SPEC, path=Path('slow'))", "engine.receive()"),  # hangs in the load
    ],
    ids=["idle", "in a step", "loading"],
)
def test_it_does_not_outlive_a_killed_parent(spec: str, then: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT).format(spec=spec, then=then)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert parent.stdout is not None
    lines = (line for line in parent.stdout if line.strip().isdigit())  # the engine's log is on the same stream
    engine = psutil.Process(int(next(lines)))

    parent.kill()
    parent.communicate(timeout=20)

    psutil.wait_procs([engine], timeout=20)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
