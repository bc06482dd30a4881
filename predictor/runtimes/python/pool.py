"""The processes of one model: hands each request a free one, replaces those that end, and bounds time and waiting.

A request that ends its process, or takes too long, is answered with an error; those that wait get the next process.
A request whose caller has gone away before it began is not computed. The pauses between restarts are as in
`predictor.llm.supervisor`. Knows frames and words, not what they mean to a deployment.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from mesh import context
from mesh.errors import CorruptArtifact, DeadlineExceeded, Internal, InvalidInput, MeshError, Overloaded, Unavailable
from mesh.logs import get_logger
from predictor.runtimes.base import Arrays, OnHealth
from predictor.runtimes.python import worker
from predictor.runtimes.python.frames import Frame, FrameError, NamedArray
from predictor.runtimes.python.process import ModelProcess, ProcessSpec

log = get_logger(__name__)

UNLOAD_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """timeout_s: for one answer, and for its reader to take it from a stream. load_timeout_s: until a process is ready.
    max_pending: requests that run or wait.
    """

    num_workers: int
    max_pending: int
    timeout_s: float
    load_timeout_s: float
    restart_delay_s: float
    max_restart_delay_s: float


class _Lease:
    """A request's hold of a process; `end` gives it back, once."""

    def __init__(self, process: ModelProcess, release: Callable[[ModelProcess], None]) -> None:
        self.process = process
        self.is_over = False
        self._release = release

    def end(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._release(self.process)


class ProcessPool:
    """Use it from one event loop. load_message: what makes a new process ready; see `worker`.

    on_health is called with False when the last process is lost, and with True when there is one again.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        load_message: Mapping[str, Any],
        limits: PoolLimits,
        on_health: OnHealth,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._load_message = load_message
        self._limits = limits
        self._on_health = on_health
        self._now = now
        self._model = f"model '{spec.model}'"
        self._ready: set[ModelProcess] = set()
        self._free: deque[ModelProcess] = deque()
        self._waiters: deque[asyncio.Future[ModelProcess]] = deque()
        self._streaming: set[ModelProcess] = set()  # in the middle of a stream
        self._num_pending = 0
        self._keepers: list[asyncio.Task[None]] = []
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def pids(self) -> list[int]:
        """Of the processes that are ready."""
        return sorted(process.pid for process in self._ready)

    async def start(self) -> Mapping[str, Any]:
        """Start all processes; returns what the model declares (`worker.READY`).

        Raises CorruptArtifact for a class that is wrong or fails to load, and Unavailable; then nothing runs.
        """
        starts = [asyncio.create_task(self._start_process()) for _ in range(self._limits.num_workers)]
        try:
            started = await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            for outcome in await asyncio.gather(*starts, return_exceptions=True):
                if not isinstance(outcome, BaseException):
                    await outcome[0].end()
            raise
        for process, _ in started:
            self._ready.add(process)
            self._give(process)
            self._keepers.append(asyncio.create_task(self._keep(process), name=f"keeper of {self._model}"))
        return started[0][1]

    async def close(self) -> None:
        """End all processes; a class's `unload` gets a few seconds. Safe to call twice, and without `start`."""
        tasks = [*self._keepers, *self._settling]
        self._keepers = []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._refuse_waiters(Unavailable(f"{self._model} is unloaded"))
        await asyncio.gather(*(self._unload(process) for process in self._ready))
        self._ready.clear()
        self._free.clear()

    async def infer(self, arrays: Sequence[NamedArray]) -> Arrays:
        """The one answer. Raises InvalidInput for what the class calls bad, Overloaded, DeadlineExceeded, Internal."""
        async with self._lease() as lease:
            return self._answer(await self._ask(lease.process, worker.INFER, arrays)).arrays

    async def stream(self, arrays: Sequence[NamedArray]) -> AsyncGenerator[Arrays, None]:
        """All answers; the class computes the next one when it is wanted. Raises as `infer`, and DeadlineExceeded for
        a reader who does not take an answer: the process is there for others, too.
        """
        async with self._lease() as lease:
            frame = await self._ask_streaming(lease.process, worker.STREAM, arrays)
            while frame.message["kind"] != worker.END:
                with self._reading(lease):
                    yield frame.arrays
                frame = await self._ask_streaming(lease.process, worker.NEXT)

    @contextmanager
    def _reading(self, lease: _Lease) -> Iterator[None]:
        timeout_s = self._limits.timeout_s
        timer = asyncio.get_running_loop().call_later(timeout_s, lease.end)
        try:
            yield
        finally:
            timer.cancel()
        if lease.is_over:
            raise DeadlineExceeded(
                f"{self._model} has waited {timeout_s:g} s, its timeout_s, for its answer to be read"
            )

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[_Lease]:
        if self._num_pending >= self._limits.max_pending:
            raise Overloaded(f"{self._model} has {self._num_pending} calls waiting, as many as it takes")
        self._num_pending += 1
        try:
            lease = _Lease(await self._acquire(), self._release)
            try:
                yield lease
            finally:
                lease.end()
        finally:
            self._num_pending -= 1

    async def _acquire(self) -> ModelProcess:
        while self._free:
            process = self._free.popleft()
            if not process.exited.is_set():
                return process
        if not self._keepers:
            raise Unavailable(f"{self._model} is unloaded")
        waiter: asyncio.Future[ModelProcess] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give(waiter.result())
            raise

    def _release(self, process: ModelProcess) -> None:
        if process.is_asked or process in self._streaming:
            settling = asyncio.create_task(self._settle(process), name=f"settling of {self._model}")
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)
        else:
            self._give(process)

    async def _settle(self, process: ModelProcess) -> None:
        """A caller went away in the middle: the process is free when it has finished, or is ended for being late."""
        timeout_s = self._limits.timeout_s
        try:
            is_done = await process.settle(timeout_s)
            if is_done and process in self._streaming:
                async with asyncio.timeout(timeout_s):
                    await process.ask({"do": worker.STOP})
        except (EOFError, TimeoutError):
            is_done = False
        self._streaming.discard(process)
        if is_done:
            self._give(process)
        else:
            await process.end()

    def _give(self, process: ModelProcess) -> None:
        """To the request that has waited longest, or to whoever comes next. One that has ended is its keeper's."""
        if process.exited.is_set():
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(process)
                return
        self._free.append(process)

    def _refuse_waiters(self, error: MeshError) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(error)

    async def _ask_streaming(self, process: ModelProcess, word: str, arrays: Sequence[NamedArray] = ()) -> Frame:
        self._streaming.add(process)
        try:
            frame = await self._ask(process, word, arrays)
        except MeshError:
            self._streaming.discard(process)
            raise
        if frame.message["kind"] != worker.ANSWER:
            self._streaming.discard(process)
        return frame if frame.message["kind"] == worker.END else self._answer(frame)

    async def _ask(self, process: ModelProcess, word: str, arrays: Sequence[NamedArray] = ()) -> Frame:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                return await process.ask({"do": word}, arrays)
        except TimeoutError:
            log.error("model_too_slow", model=self._spec.model, timeout_s=self._limits.timeout_s)
            await process.end()
            raise DeadlineExceeded(
                f"{self._model} has not answered within {self._limits.timeout_s:g} s, its timeout_s"
            ) from None
        except EOFError:
            ending = describe_ending(await process.end())
            raise Internal(f"{self._model} {ending} while it computed this request{_request_id()}") from None
        except FrameError as error:
            raise InvalidInput(f"{self._model} cannot be given this request: {error}") from None

    def _answer(self, frame: Frame) -> Frame:
        """The frame, if it is an answer; else raises what it says."""
        message = frame.message
        kind = message["kind"]
        if kind == worker.ANSWER:
            return frame
        if kind == worker.BAD_INPUT:
            raise InvalidInput(message["sentence"])
        if kind == worker.MISTAKE:
            log.error("model_answer_wrong", model=self._spec.model, reason=message["sentence"])
            raise Internal(f"{self._model} answers wrongly: {message['sentence']}{_request_id()}")
        log.error("model_raised", model=self._spec.model, traceback=message.get("traceback", ""))
        if kind == worker.NO_MEMORY:
            raise Internal(f"{self._model} needs more memory than {self._memory()}{_request_id()}")
        raise Internal(f"{self._model} failed; the logs have it{_request_id()}")

    async def _keep(self, process: ModelProcess) -> None:
        """Owns one place in the pool: puts a new process there whenever the last one has ended."""
        num_failures = 0
        while True:
            ready_at = self._now()
            await process.exited.wait()
            status = await process.end()
            self._ready.discard(process)
            self._streaming.discard(process)
            log.error("model_process_ended", model=self._spec.model, exit_status=status)
            if not self._ready:
                self._on_health(False, f"its process {describe_ending(status)}; another one starts")
            if self._now() - ready_at > self._limits.max_restart_delay_s:
                num_failures = 0
            process, num_failures = await self._start_again(num_failures)
            self._ready.add(process)
            if len(self._ready) == 1:
                self._on_health(True, "")
            self._give(process)

    async def _start_again(self, num_failures: int) -> tuple[ModelProcess, int]:
        """Start processes until one is ready; returns it and how many pauses there have been."""
        while True:
            delay_s = min(self._limits.restart_delay_s * 2**num_failures, self._limits.max_restart_delay_s)
            num_failures = min(num_failures + 1, 30)
            log.info("model_process_restarts", model=self._spec.model, delay_s=delay_s)
            await asyncio.sleep(delay_s)
            try:
                return (await self._start_process())[0], num_failures
            except Exception as error:  # the top of the keeper's task: whatever it was, the next start may succeed
                log.error("model_process_not_started", model=self._spec.model, exc_info=error)
                if not self._ready:
                    self._refuse_waiters(Unavailable(f"{self._model} has lost its process, and no other one starts"))

    async def _start_process(self) -> tuple[ModelProcess, Mapping[str, Any]]:
        process = ModelProcess(self._spec)
        try:
            async with asyncio.timeout(self._limits.load_timeout_s):
                frame = await process.ask(self._load_message)
            if frame.message["kind"] != worker.READY:
                raise self._load_error(frame.message)
        except BaseException as error:
            status = await process.end()
            if isinstance(error, EOFError):
                raise CorruptArtifact(f"{self._model} {describe_ending(status)} while it loaded") from None
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    f"{self._model} has not loaded within {self._limits.load_timeout_s:g} s, its load_timeout_s"
                ) from None
            raise
        return process, frame.message

    def _load_error(self, message: Mapping[str, Any]) -> MeshError:
        if message["kind"] == worker.MISTAKE:
            return CorruptArtifact(f"{self._model}: {message['sentence']}")
        log.error("model_load_raised", model=self._spec.model, traceback=message.get("traceback", ""))
        if message["kind"] == worker.NO_MEMORY:
            return Unavailable(f"{self._model} needs more memory to load than {self._memory()}")
        return CorruptArtifact(f"{self._model} fails to load: {message.get('what') or message.get('sentence')}")

    def _memory(self) -> str:
        limit = self._spec.memory_limit_bytes
        return f"the {limit} bytes of its memory_limit_bytes" if limit else "the machine has"

    async def _unload(self, process: ModelProcess) -> None:
        if not process.is_asked and process not in self._streaming:
            await process.tell({"do": worker.UNLOAD}, UNLOAD_TIMEOUT_S)
            await process.wait_exited(UNLOAD_TIMEOUT_S)
        await process.end()


def describe_ending(status: int) -> str:
    """`status` as Popen has it, in words that follow a name."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _request_id() -> str:
    request = context.current()
    return f" (request {request.request_id})" if request else ""
