"""A generation that survives the replicas it runs on: one stream to its reader, whoever computes it.

What was delivered is remembered as tokens. When the stream breaks or its replica leaves, another replica is asked to
go on after them (GenerateRequest.continue_from) with the same seed; noise depends on seed and position alone, and text
on the tokens alone, so it says what the first would have said. Used by every hop that has a choice of next hops: each
keeps its own account, and none needs to know of the others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property

import grpc.aio
from google.protobuf.message import DecodeError

from mesh.balancing import ANY, Request
from mesh.endpoints import Kind
from mesh.merging import merged
from mesh.pool import EndpointPool
from mesh.resumable_stream import BrokenAnswer, CannotContinue
from mesh.stream_call import end_call
from mesh.v1 import language_model_pb2 as lm

GENERATE = "/mesh.v1.LanguageModel/Generate"

# A message, and the bytes that it came as; None when they are no longer the message's.
Answer = tuple[lm.GenerateResponse, bytes | None]
Ask = Callable[[bytes], AsyncIterable[bytes]]


def generate(
    pool: EndpointPool,
    kind: Kind,
    deployment_name: str,
    request: bytes,
    timeout_s: Callable[[], float | None],
    *,
    version: str = "",
    hint: Request = ANY,
) -> AsyncGenerator[Answer, None]:
    """The answers to a GenerateRequest from replicas of `kind`. Close the generator when leaving it early.

    timeout_s: what is left of the request's time, whenever it is asked. Raises as EndpointPool.stream does.
    """
    stream = GenerationStream(request)

    def call(channel: grpc.aio.Channel) -> AsyncGenerator[Answer, None]:
        rpc: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(GENERATE)
        return stream.go_on(lambda asked: rpc(asked, timeout=timeout_s()))

    return pool.resumable_stream(kind, deployment_name, call, version=version, request=hint)


@dataclass(slots=True)
class _Output:
    """What one output has said so far.

    attempt: the last one, after the first, that said something of it. token_ids: all that were delivered, repeated
    ones included. num_before: how many of them earlier attempts generated. first_token_s: seconds after the generation
    began.
    """

    index: int
    attempt: int = 0
    token_ids: list[int] = field(default_factory=list)
    num_before: int = 0
    first_token_s: float | None = None
    has_ended: bool = False


class GenerationStream:
    """The account of one generation: what was delivered, and what to ask for the rest."""

    def __init__(self, request: bytes, now: Callable[[], float] = time.monotonic) -> None:
        self._request = request
        self._now = now
        self._start: lm.GenerationStart | None = None
        self._outputs: dict[int, _Output] = {}
        self._wants_prompt_logprobs = False
        self._num_prompt_logprobs = 0
        self._num_to_skip = 0  # of the prompt's log-probabilities: delivered, and about to come again
        self._replica = ""
        self._attempt = 0
        self._began_at = 0.0
        self._attempt_s = 0.0  # when this attempt began, in seconds after the first one

    async def go_on(self, ask: Ask) -> AsyncGenerator[Answer, None]:
        """What has not been delivered yet, by asking one replica. To be called again whenever it fails.

        Raises what `ask` raises, BrokenAnswer for answers that cannot be, and CannotContinue when the replica's model
        is not the first one's.
        """
        is_continued = self._start is not None
        requests = self._begin_attempt()
        answers = ask(requests[0]) if len(requests) == 1 else _joined([_answers(ask, one) for one in requests])
        try:
            async for content in answers:
                try:
                    response = lm.GenerateResponse.FromString(content)
                except DecodeError:
                    raise BrokenAnswer("its answer is no GenerateResponse") from None
                if is_continued and not self._adapt(response):
                    continue
                self._note(response)
                yield response, None if is_continued else content
        except grpc.aio.AioRpcError as error:
            if self._unfinished() is None:
                return  # only the status was lost, and nobody need be asked for that
            if is_continued and error.code() is grpc.StatusCode.NOT_FOUND:
                raise CannotContinue(f"the model is no longer there to go on with: {error.details()}") from error
            raise
        finally:
            await end_call(answers)
        self._check_ended()

    @cached_property
    def _asked(self) -> lm.GenerateRequest:
        """The request, parsed only once somebody has begun to answer it."""
        return lm.GenerateRequest.FromString(self._request)

    @property
    def _indices(self) -> range:
        sampling = self._asked.sampling
        first = sampling.sample_index
        return range(first, first + (sampling.n if sampling.HasField("n") else 1))

    # What to ask

    def _begin_attempt(self) -> list[bytes]:
        """The requests for what is missing: for the whole while no output has begun, else one for each unfinished."""
        now = self._now()
        self._attempt += 1
        if self._start is None:
            self._began_at, self._attempt_s = now, 0.0
            return [self._request]
        self._attempt_s = now - self._began_at
        self._num_to_skip = self._num_prompt_logprobs
        rest = self._pinned(self._start)
        if not self._outputs:
            return [rest.SerializeToString()]
        outputs = [self._outputs.get(index) or _Output(index) for index in self._indices]
        return [self._rest_of(output, rest).SerializeToString() for output in outputs if not output.has_ended]

    def _pinned(self, start: lm.GenerationStart) -> lm.GenerateRequest:
        """The request with nothing left open that the first replica decided, and nothing that it has said already."""
        asked = lm.GenerateRequest()
        asked.CopyFrom(self._asked)
        asked.model_version = asked.model_version or start.model_version
        asked.sampling.seed = start.seed
        asked.echo = False
        if start.rendered_prompt and asked.HasField("messages") and not asked.messages.tools_json:
            # What the first hop made of the messages: a template may read the clock. With tools they are needed again.
            asked.text = start.rendered_prompt
        if self._num_prompt_logprobs >= start.prompt_tokens - 1 and self._outputs:
            asked.sampling.ClearField("prompt_logprobs")
        return asked

    def _rest_of(self, output: _Output, rest: lm.GenerateRequest) -> lm.GenerateRequest:
        asked = lm.GenerateRequest()
        asked.CopyFrom(rest)
        asked.sampling.n = 1
        asked.sampling.sample_index = output.index
        if output.index != self._indices.start:
            asked.sampling.ClearField("prompt_logprobs")  # the first output alone brings them
        output.num_before = len(output.token_ids)
        if asked.repeat_continued and output.token_ids:
            output.num_before -= len(asked.continue_from)
            del asked.continue_from[:]
            asked.repeat_continued = False
        asked.continue_from.extend(output.token_ids)
        return asked

    # What comes

    def _adapt(self, response: lm.GenerateResponse) -> bool:
        """Make a message of a later attempt one of the whole; False when it says nothing new."""
        if response.HasField("start"):
            self._check_start(response.start)
            self._replica = response.start.replica
            response.ClearField("start")
        if self._num_to_skip and response.prompt_logprobs:
            num_known = min(self._num_to_skip, len(response.prompt_logprobs))
            self._num_to_skip -= num_known
            del response.prompt_logprobs[:num_known]
        if not (response.text or response.token_ids or response.finish_reason or response.tool_calls):
            return bool(response.prompt_logprobs)
        output = self._output(response.index)
        if output.attempt != self._attempt:
            output.attempt = self._attempt
            response.moved_to = response.moved_to or self._replica
        if response.finish_reason:
            self._complete(response, output)
        return True

    def _check_start(self, start: lm.GenerationStart) -> None:
        first = self._start
        assert first is not None
        if start.model_digest != first.model_digest:
            raise CannotContinue(f"replica {start.replica} has another model than the one that began the answer")
        if start.prompt_tokens != first.prompt_tokens or (
            start.rendered_prompt and start.rendered_prompt != first.rendered_prompt
        ):
            raise CannotContinue(f"replica {start.replica} reads another prompt than the one that began the answer")

    def _complete(self, response: lm.GenerateResponse, output: _Output) -> None:
        """Usage and timings of an output's last message, for all attempts together."""
        if response.HasField("usage"):
            usage = response.usage
            usage.output_tokens += output.num_before
            # What the next replica had cached of the tokens to go on from is no part of the prompt.
            usage.cached_tokens = min(usage.cached_tokens, usage.prompt_tokens)
        if response.HasField("timings"):
            timings = response.timings
            timings.total_s += self._attempt_s
            if output.num_before and output.first_token_s is not None:
                timings.first_token_s = output.first_token_s
            else:
                timings.first_token_s += self._attempt_s
            timings.queue_s = min(timings.queue_s, timings.first_token_s)

    def _note(self, response: lm.GenerateResponse) -> None:
        """Take a message that is about to be delivered into the account."""
        if self._start is None:
            if not response.HasField("start"):
                raise BrokenAnswer("its first message has no start")
            self._start = lm.GenerationStart()
            self._start.CopyFrom(response.start)
            self._start.ClearField("prompt_text")
            self._start.ClearField("prompt_token_ids")
            self._replica = self._start.replica
            self._wants_prompt_logprobs = self._asked.sampling.HasField("prompt_logprobs")
        if self._wants_prompt_logprobs:
            self._num_prompt_logprobs += len(response.prompt_logprobs)
        token_ids, has_ended = response.token_ids, response.finish_reason
        if token_ids or has_ended:
            output = self._outputs.get(response.index) or self._output(response.index)
            output.token_ids.extend(token_ids)
            if output.first_token_s is None and token_ids:
                output.first_token_s = self._now() - self._began_at
            if has_ended:
                output.has_ended = True

    def _output(self, index: int) -> _Output:
        if index not in self._indices:
            raise BrokenAnswer(f"it answers with output {index}, which nobody asked for")
        return self._outputs.setdefault(index, _Output(index))

    def _unfinished(self) -> str | None:
        """What is missing of the answer; None when all of it has been delivered."""
        if self._start is None:
            return "the first message"
        for index in self._indices:
            if index not in self._outputs or not self._outputs[index].has_ended:
                return f"output {index} was complete"
        return None

    def _check_ended(self) -> None:
        """Half an answer must not look like a whole one."""
        if (missing := self._unfinished()) is not None:
            raise BrokenAnswer(f"it ended its answer before {missing}")


async def _answers(ask: Ask, request: bytes) -> AsyncGenerator[bytes, None]:
    messages = ask(request)
    try:
        async for message in messages:
            yield message
    finally:
        await end_call(messages)


async def _joined(streams: list[AsyncGenerator[bytes, None]]) -> AsyncGenerator[bytes, None]:
    async with aclosing(merged(streams)) as messages:
        async for _, message in messages:
            yield message
