"""Language models in miniature, and streams of them that are cut wherever a test wants.

`ScriptedModel` says what a script says, as an engine would: from continue_from on, in pieces of its own, with text that
lags behind its tokens.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

import grpc
import grpc.aio

from mesh.generation_stream import GenerationStream
from mesh.resumable_stream import BrokenAnswer
from mesh.v1 import language_model_pb2 as lm

DIGEST = "d" * 64
SEED = 77


@dataclass(frozen=True)
class Script:
    """What a model says to one prompt. outputs: (token, text that is out after it), by index; the last one ends it."""

    outputs: tuple[tuple[tuple[int, str], ...], ...]
    num_prompt_tokens: int = 5
    num_cached: int = 2


def _logprob(position: int, token_id: int) -> lm.PositionLogprobs:
    return lm.PositionLogprobs(chosen=lm.TokenLogprob(token_id=token_id, logprob=-position - token_id / 1000))


class ScriptedModel:
    """One replica. Draws a seed of its own for requests that bring none, so a seed that is not pinned is noticed."""

    def __init__(self, script: Script, rng: random.Random, name: str = "a:1", digest: str = DIGEST) -> None:
        self.script = script
        self.name = name
        self.digest = digest
        self.requests: list[lm.GenerateRequest] = []
        self._rng = rng

    def answers(self, request: lm.GenerateRequest) -> list[lm.GenerateResponse]:
        """All messages, in an order that keeps each output's own."""
        self.requests.append(request)
        sampling = request.sampling
        start = lm.GenerationStart(
            model_name="m",
            model_version="1",
            model_digest=self.digest,
            seed=sampling.seed if sampling.HasField("seed") else self._rng.randrange(1 << 53),
            prompt_tokens=self.script.num_prompt_tokens,
            replica=self.name,
            prompt_text="prompt" if request.echo else "",
        )
        indices = range(sampling.sample_index, sampling.sample_index + (sampling.n or 1))
        queues = [list(self._output(request, index, start.seed)) for index in indices]
        if sampling.HasField("prompt_logprobs"):
            queues[0][:0] = self._prompt_logprobs(indices.start)
        messages = []
        while queues:
            queue = self._rng.choice(queues)
            messages.append(queue.pop(0))
            queues = [queue for queue in queues if queue]
        messages[0].start.CopyFrom(start)
        return messages

    def _prompt_logprobs(self, index: int) -> Iterator[lm.GenerateResponse]:
        positions = [_logprob(position, position) for position in range(1, self.script.num_prompt_tokens)]
        while positions:
            num = self._rng.randint(1, len(positions))
            yield lm.GenerateResponse(index=index, prompt_logprobs=positions[:num])
            positions = positions[num:]

    def _output(self, request: lm.GenerateRequest, index: int, seed: int) -> Iterator[lm.GenerateResponse]:
        tokens = self.script.outputs[index]
        num_known = len(request.continue_from)
        expected = [self._said(token_id, seed, request) for token_id, _ in tokens]
        assert list(request.continue_from) == expected[:num_known], "it goes on from what it never said"
        place = num_known
        while place < len(tokens):
            end = place + self._rng.randint(1, 3)
            piece = range(place, min(end, len(tokens)))
            message = lm.GenerateResponse(
                index=index,
                text="".join(tokens[position][1] for position in piece),
                token_ids=[expected[position] for position in piece],
            )
            if request.sampling.HasField("logprobs"):
                message.logprobs.extend(_logprob(position, expected[position]) for position in piece)
            if piece.stop == len(tokens):
                message.finish_reason = lm.FINISH_REASON_STOP
                message.matched_stop = "stop"
                message.usage.prompt_tokens = self.script.num_prompt_tokens
                message.usage.cached_tokens = self.script.num_cached + num_known
                message.usage.output_tokens = len(tokens) - num_known
                message.timings.queue_s, message.timings.first_token_s, message.timings.total_s = 0.5, 1.0, 2.0
            yield message
            place = piece.stop

    def _said(self, token_id: int, seed: int, request: lm.GenerateRequest) -> int:
        """Sampled tokens depend on the seed."""
        return token_id if request.sampling.temperature == 0 else token_id + seed % 1000 * 1000

    async def stream(self, request: bytes, num_messages: int | None = None) -> AsyncGenerator[bytes, None]:
        """The answers; after so many the way breaks."""
        for number, message in enumerate(self.answers(lm.GenerateRequest.FromString(request))):
            if number == num_messages:
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
            yield message.SerializeToString()


async def delivered(
    request: lm.GenerateRequest, models: list[ScriptedModel], cuts: list[int]
) -> list[lm.GenerateResponse]:
    """What the reader of one stream gets, when attempt i is cut after cuts[i] messages of any of its calls."""
    stream = GenerationStream(request.SerializeToString())
    messages: list[lm.GenerateResponse] = []
    for number, cut in enumerate([*cuts, None]):
        model = models[number % len(models)]
        try:
            async for response, content in stream.go_on(lambda asked, m=model, c=cut: m.stream(asked, c)):
                assert content is None or lm.GenerateResponse.FromString(content) == response
                messages.append(lm.GenerateResponse.FromString(response.SerializeToString()))
            return messages
        except (grpc.aio.AioRpcError, BrokenAnswer):
            continue
    raise AssertionError("the last attempt is never cut")


def whole(messages: list[lm.GenerateResponse], index: int) -> lm.GenerateResponse:
    """All that was said of one output, as one message, without what belongs to a run: times, and who said it."""
    joined = lm.GenerateResponse(index=index)
    for message in messages:
        if message.index == index:
            joined.MergeFrom(message)
    joined.text = "".join(message.text for message in messages if message.index == index)
    joined.ClearField("start")
    joined.ClearField("timings")
    joined.ClearField("moved_to")
    return joined
