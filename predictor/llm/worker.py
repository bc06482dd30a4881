"""The engine process: loads a model, then turns commands from a pipe into steps, and steps into reports.

    python -m predictor.llm.worker FD PARENT_PID

It has its own interpreter, so that generation never holds up the event loop that serves clients. Idle, it blocks on
the pipe and costs nothing. It ends when told to, or when its parent is gone: signals for the whole group (Ctrl-C, a
service manager's SIGTERM) are the parent's to answer, who may still want to drain.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from mesh import logs
from mesh.errors import Internal, MeshError, Unavailable
from predictor.llm.block_pool import BlockPool
from predictor.llm.engine import Engine
from predictor.llm.factory import EngineModel, ModelFactory
from predictor.llm.invariance import is_batch_invariant
from predictor.llm.kv_memory import plan_num_blocks
from predictor.llm.limits import EngineLimits
from predictor.llm.messages import (
    Abort,
    Add,
    Command,
    EngineInfo,
    EngineSpec,
    Inspect,
    LoadFailed,
    Loading,
    Message,
    Ready,
    Report,
    Stop,
)
from predictor.llm.outputs import EngineOutput, FailedOutput
from predictor.llm.scheduler import Scheduler
from predictor.parent_process import die_with_parent

# Any: Commands come in and Messages go out. A string: the class is generic for type checkers only.
Pipe: TypeAlias = "Connection[Any, Any]"

# A flood of commands may not hold up the requests that run.
MAX_COMMANDS_PER_STEP = 64
# A request that breaks a step is dropped; steps that break whatever they compute mean that the process is broken.
MAX_FAILED_STEPS_IN_A_ROW = 3

# __name__ is "__main__" in the engine process.
_MODULE = "predictor.llm.worker"


def main(argv: list[str]) -> int:
    """Run one engine process to its end; returns the exit status."""
    fd, parent_pid = (int(arg) for arg in argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(parent_pid)
    pipe: Pipe = Connection(fd)
    try:
        spec: EngineSpec = pipe.recv()
        logs.configure("engine", spec.logs.level, spec.logs.format)
        engine = load(spec, pipe.send)
        return 1 if engine is None else serve(engine, pipe)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0  # the parent is gone: nobody is left to tell


def load(spec: EngineSpec, send: Callable[[Message], None]) -> Engine | None:
    """Load the model and make an engine; says how far it is, and in the end `Ready`, or why not and returns None."""
    log = logs.get_logger(_MODULE)
    try:
        module, _, name = spec.factory.partition(":")
        factory: ModelFactory = getattr(import_module(module), name)
        model = factory(spec.path, spec.settings, _Progress(send))
        send(Loading("warm-up", 0.0))
        model.backend.warm_up()
        engine, info = build_engine(model, spec)
    except MeshError as error:
        send(LoadFailed(error))
        return None
    except MemoryError as error:
        send(LoadFailed(Unavailable(f"not enough memory to load {spec.path.name}: {error}")))
        return None
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception:
        log.exception("engine_load_failed")
        send(LoadFailed(Internal(f"loading {spec.path.name} failed; the engine's log says why")))
        return None
    log.info(
        "engine_ready",
        architecture=info.facts.architecture,
        dtype=info.facts.dtype,
        kv_cache_tokens=info.num_blocks * info.block_size,
        kv_cache_bytes=info.kv_cache_bytes,
        max_context_tokens=info.limits.max_context_tokens,
        is_proved_deterministic=info.is_proved_deterministic,
    )
    send(Ready(info))
    return engine


def build_engine(model: EngineModel, spec: EngineSpec) -> tuple[Engine, EngineInfo]:
    """An engine over as many KV blocks as the settings and the free memory allow; the backend has been warmed up."""
    settings, facts, backend = spec.settings, model.facts, model.backend
    max_context_tokens = min(settings.max_context_tokens or facts.max_context_tokens, facts.max_context_tokens)
    block_bytes = backend.block_bytes(settings.block_size)
    num_blocks = plan_num_blocks(settings, block_bytes, max_context_tokens, model.free_bytes())
    backend.allocate(num_blocks, settings.block_size)
    if settings.deterministic and not is_batch_invariant(backend, num_blocks, settings.block_size, facts.vocab_size):
        logs.get_logger(_MODULE).warning("kernels_are_not_batch_invariant", consequence="one token at a time")
        # Steps of one token all have one shape, so the kernels have nothing to choose by.
        settings = replace(settings, max_num_seqs=1, max_num_batched_tokens=1)
    if settings.device != "cpu" and not settings.deterministic:
        # A draft makes a step larger, and there nobody has shown that this leaves the results as they are.
        settings = replace(settings, speculation="off")
    limits = EngineLimits(
        facts.vocab_size, min(max_context_tokens, num_blocks * settings.block_size), settings.max_num_requests
    )
    pool = BlockPool(num_blocks, settings.block_size, enable_prefix_caching=settings.enable_prefix_caching)
    engine = Engine(backend, Scheduler(pool, settings), model.vocabulary, limits, model.guides)
    return engine, EngineInfo(
        facts, limits, num_blocks, settings.block_size, num_blocks * block_bytes, settings.deterministic
    )


def serve(engine: Engine, pipe: Pipe) -> int:
    """Turn after turn: take the commands that are there, make a step, send what came of both. Returns on `Stop`."""
    num_failed_steps = 0
    while True:
        outputs: list[EngineOutput] = []
        for command in _commands(pipe, wait=not engine.has_work):
            if isinstance(command, Stop):
                return 0
            if isinstance(command, Inspect):
                pipe.send(engine.inspect())
            outputs += _obey(engine, command)
        if engine.has_work:
            try:
                outputs += engine.step()
                num_failed_steps = 0
            except Exception:
                logs.get_logger(_MODULE).exception("engine_step_failed")
                num_failed_steps += 1
                if num_failed_steps == MAX_FAILED_STEPS_IN_A_ROW:
                    raise
                outputs += engine.fail_step()
        pipe.send(Report(tuple(outputs), engine.stats()))


def _commands(pipe: Pipe, *, wait: bool) -> Iterator[Command]:
    """The commands that are there, at most MAX_COMMANDS_PER_STEP; with `wait` at least one."""
    for _ in range(MAX_COMMANDS_PER_STEP):
        if not wait and not pipe.poll():
            return
        wait = False
        yield pipe.recv()


def _obey(engine: Engine, command: Command) -> list[EngineOutput]:
    if isinstance(command, Abort):
        engine.abort(command.request_id)
    if isinstance(command, Add):
        try:
            output = engine.add(command.request, command.arrived_at)
        except MeshError as error:
            return [FailedOutput(command.request.request_id, error)]
        return [] if output is None else [output]
    return []


class _Progress:
    """Passes progress on, a percent at a time: a loader may report every tensor."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._last = ("", -1)

    def __call__(self, stage: str, share: float) -> None:
        if (stage, int(share * 100)) != self._last:
            self._last = (stage, int(share * 100))
            self._send(Loading(stage, share))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
