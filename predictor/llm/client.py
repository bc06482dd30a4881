"""The engine as an event loop uses it: `generate` and `score`, with an engine process that is kept alive behind them.

What runs on an engine that dies ends with Unavailable, which tells a gateway to go on elsewhere from the tokens it
has. Knows no gRPC.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Protocol

from mesh.errors import DeadlineExceeded, ModelNotReady, Overloaded, PromptTooLong, Unavailable
from predictor.llm.factory import Progress
from predictor.llm.inspection import Inspection
from predictor.llm.messages import Abort, Add, EngineInfo, EngineSpec, Inspect, Report
from predictor.llm.output_stream import OutputStream
from predictor.llm.outputs import EngineStats, FailedOutput, GenerationOutput, ScoreOutput
from predictor.llm.sequence import FinishReason, GenerationRequest, RejectionReason, Request, ScoreRequest
from predictor.llm.supervisor import EngineState, EngineSupervisor

# Longer than any special token, whose text `id_to_bytes` does not tell.
_MIN_LONGEST_TOKEN_BYTES = 64


class TextTokenizer(Protocol):
    """What the client asks of a tokenizer; safe to use from another thread."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str, *, add_special: bool = False) -> list[int]: ...

    def id_to_bytes(self, token_id: int, /) -> bytes: ...


class EngineClient:
    """One engine and its callers. Use it from one event loop: `start` it there, and `stop` it in the end.

    on_state is called on the loop with every new state; health follows it. on_step is called with the number of tokens
    that each step computed.
    """

    def __init__(
        self,
        spec: EngineSpec,
        tokenizer: TextTokenizer,
        on_state: Callable[[EngineState], None] = lambda state: None,
        now: Callable[[], float] = time.monotonic,
        on_step: Callable[[int], None] = lambda num_tokens: None,
    ) -> None:
        self.tokenizer = tokenizer
        self._settings = spec.settings
        self._longest_token_bytes = max(
            _MIN_LONGEST_TOKEN_BYTES, *(len(tokenizer.id_to_bytes(i)) for i in range(tokenizer.vocab_size))
        )
        self._tell_state = on_state
        self._tell_step = on_step
        self._now = now
        self._supervisor = EngineSupervisor(spec, self._on_report, self._on_state, now)
        # The engine as of its last step, and the counters of those before it. One value: another thread reads it.
        self._looks = (EngineStats(), EngineStats())
        self._num_rejected = 0
        self._inspection: asyncio.Future[Inspection] | None = None
        self._streams: dict[str, OutputStream] = {}
        self._request_numbers = count()
        # Scores come by the hundred; those beyond what can run at once wait here and not in the engine's queue.
        self._score_slots = asyncio.Semaphore(self._settings.max_num_seqs)

    @property
    def state(self) -> EngineState:
        return self._supervisor.state

    @property
    def pid(self) -> int | None:
        """Process id of the engine; None when none runs."""
        return self._supervisor.pid

    @property
    def info(self) -> EngineInfo:
        """What the engine is, as of its last start. Raises ModelNotReady before the first."""
        if self._supervisor.info is None:
            raise ModelNotReady("the engine has not been loaded yet")
        return self._supervisor.info

    def stats(self) -> EngineStats:
        """The engine as of its last step. Counters count from the making of this client, over all engine processes."""
        latest, earlier = self._looks
        own = EngineStats(num_rejected={RejectionReason.REQUESTS: self._num_rejected})
        return latest.after(earlier).after(own)

    async def inspect(self, timeout_s: float) -> Inspection:
        """The engine between two steps; calls at the same time share one look.

        Raises ModelNotReady when no engine is ready, Unavailable when it dies, DeadlineExceeded when it is silent.
        """
        if self.state is not EngineState.READY:
            raise ModelNotReady(f"the engine is {self.state.value}")
        if self._inspection is None or self._inspection.done():
            self._inspection = asyncio.get_running_loop().create_future()
            self._supervisor.send(Inspect())
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._inspection)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the engine (process {self.pid}) has not answered for {timeout_s:g} s: "
                "it is in a long step, or it hangs and will be replaced"
            ) from None

    async def start(self, progress: Progress = lambda stage, share: None) -> None:
        """Start the engine process and wait until it is ready. `progress` is called on the loop.

        Raises what loading raised (CorruptArtifact, Unsupported, NotFound, InvalidInput …), or Unavailable when the
        process ended or fell silent; then nothing is left running.
        """
        await self._supervisor.start(progress)

    async def stop(self) -> None:
        """End the engine; what still runs ends with Unavailable. Safe to call twice."""
        await self._supervisor.stop()

    async def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of `text`, computed in a thread. Raises PromptTooLong, without tokenizing, for what cannot fit."""
        limit = self.info.limits.max_context_tokens
        if len(text) > limit * self._longest_token_bytes:
            raise PromptTooLong(f"prompt has {len(text)} characters; the model takes {limit} tokens", field="prompt")
        return await asyncio.to_thread(self.tokenizer.encode, text, add_special=add_special)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationOutput, None]:
        """Outputs as they come; the last about each index has a finish_reason.

        A reader that is slower than the engine gets several tokens at a time. Closing the generator, or cancelling
        the task that iterates, stops the request and frees its blocks: use `contextlib.aclosing`.

        Raises InvalidInput, PromptTooLong, Overloaded or ModelNotReady before the first output; Unavailable when the
        engine dies, after all outputs that came before; Internal when its step fails.
        """
        num_unfinished = request.n
        with self._submitted(request, request.n) as stream:
            while num_unfinished:
                output = await stream.get()
                assert isinstance(output, GenerationOutput)
                num_unfinished -= output.finish_reason is not None
                yield replace(output, request_id=request.request_id)

    async def score(self, request: ScoreRequest) -> ScoreOutput:
        """Log-probabilities of the request's targets. Raises as `generate` does; cancelling stops the request."""
        async with self._score_slots:
            with self._submitted(request, 1) as stream:
                output = await stream.get()
        assert isinstance(output, ScoreOutput)
        return replace(output, request_id=request.request_id)

    @contextmanager
    def _submitted(self, request: Request, num_outputs: int) -> Iterator[OutputStream]:
        if self.state is not EngineState.READY:
            raise ModelNotReady(f"the engine is {self.state.value}")
        self.info.limits.check(request)
        if len(self._streams) >= self._settings.max_num_requests:
            self._num_rejected += 1
            raise Overloaded(
                f"{len(self._streams)} requests are in the engine; "
                f"at most {self._settings.max_num_seqs} run and {self._settings.max_num_waiting} wait"
            )
        # A caller may repeat an id (a retry, a hedge); an abort must never meet another request than its own.
        key = f"{request.request_id}#{next(self._request_numbers)}"
        stream = self._streams[key] = OutputStream(num_outputs)
        self._supervisor.send(Add(replace(request, request_id=key), self._now()))
        try:
            yield stream
        finally:
            del self._streams[key]
            if not stream.is_finished:
                self._supervisor.send(Abort(key))

    def _on_report(self, report: Report | Inspection) -> None:
        if isinstance(report, Inspection):
            if self._inspection is not None and not self._inspection.done():
                self._inspection.set_result(report)
            return
        latest, earlier = self._looks
        self._looks = (report.stats, earlier)
        if report.stats.num_steps > latest.num_steps:
            self._tell_step(report.stats.num_last_step_tokens)
        for output in report.outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                continue  # its reader has left
            if isinstance(output, FailedOutput):
                stream.fail(output.error)
            else:
                stream.put(output)

    def _on_state(self, state: EngineState) -> None:
        if state in (EngineState.DEAD, EngineState.STOPPED):
            self._lose_engine(state)
        self._tell_state(state)

    def _lose_engine(self, state: EngineState) -> None:
        latest, earlier = self._looks
        unfinished = [stream for stream in self._streams.values() if not stream.is_finished]
        lost = EngineStats(
            num_deaths=int(state is EngineState.DEAD),
            num_finished={FinishReason.ERROR: sum(stream.num_unfinished for stream in unfinished)},
        )
        self._looks = (EngineStats(), EngineStats().after(latest).after(earlier).after(lost))
        for stream in unfinished:
            stream.fail(Unavailable(f"the engine is {state.value}; the request can go on elsewhere"))
        if self._inspection is not None and not self._inspection.done():
            self._inspection.set_exception(Unavailable(f"the engine is {state.value}"))
            self._inspection.exception()  # nobody may be waiting for it any more
