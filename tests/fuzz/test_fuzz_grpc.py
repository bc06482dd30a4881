"""The gRPC service under hostile requests, at the predictor and through the gateway: no fault but the client's own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import strategies as st

from mesh.oip import open_inference_pb2 as oip
from tests.fuzz.conftest import Effort
from tests.fuzz.exploring import CALL_S, Answer, Case, Exploration
from tests.fuzz.infer_messages import InferCase, infer_cases, typed
from tests.fuzz.rpc_messages import RpcCase, rpc_cases
from tests.interop.served import Served

SERVICE = "/inference.GRPCInferenceService/"
# What a bad request may get. UNAVAILABLE is for a model that is not loaded: only `spare` is ever unloaded.
ALLOWED = {
    grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION,
}  # fmt: skip
# grpc.aio's own word, on the client's side, for a write to a stream that the server has ended.
WRITTEN_TOO_LATE = "Internal error from Core"
TARGETS = pytest.mark.parametrize("service", ["predictor", "gateway"])
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class StreamCase:
    """Messages on one ModelStreamInfer."""

    messages: tuple[InferCase, ...]

    @property
    def words(self) -> str:
        return " | ".join(message.words for message in self.messages)


class Client:
    """Sends bytes as they are."""

    def __init__(self, address: str) -> None:
        limits = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.aio.insecure_channel(address, options=limits)

    async def call(self, method: str, message: bytes) -> tuple[grpc.StatusCode, bytes, str]:
        """Status, answer and sentence."""
        call = self.channel.unary_unary(SERVICE + method)(message, timeout=CALL_S)
        try:
            return grpc.StatusCode.OK, await call, ""
        except grpc.aio.AioRpcError as error:
            return error.code(), b"", error.details() or ""

    async def infer(self, case: InferCase) -> Answer:
        status, _, sentence = await self.call("ModelInfer", case.message())
        return judged(status, sentence)

    async def rpc(self, case: RpcCase) -> Answer:
        status, _, sentence = await self.call(case.method, case.message())
        if status is grpc.StatusCode.UNAVAILABLE and "spare" in sentence:
            return Answer("UNAVAILABLE")
        return judged(status, sentence)

    async def stream(self, case: StreamCase) -> Answer:
        """All messages at once, then the end of the client's side; each must be answered, or the stream ended."""
        call = self.channel.stream_stream(SERVICE + "ModelStreamInfer")(timeout=CALL_S)
        answers = []
        try:
            for message in case.messages:
                await call.write(message.message())
            await call.done_writing()
            async for answer in call:
                answers.append(oip.ModelStreamInferResponse.FromString(answer))
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        status = await call.code()
        if await call.details() == WRITTEN_TOO_LATE:
            return Answer("ended while it was written to")
        sentences = [one.error_message for one in answers if one.error_message]
        internal = next((sentence for sentence in sentences if sentence.startswith("internal error")), None)
        judgement = judged(status, await call.details() or " ".join(sentences), internal)
        return Answer(f"{judgement.outcome} with {len(sentences)} refused", judgement.fault)

    async def is_well(self) -> bool:
        """The next request on the same connection is answered right."""
        status, answer, _ = await self.call("ModelInfer", typed().SerializeToString())
        return status is grpc.StatusCode.OK and list(
            oip.ModelInferResponse.FromString(answer).outputs[0].contents.int_contents
        ) == [1, 1]


def judged(status: grpc.StatusCode, sentence: str, fault: str | None = None) -> Answer:
    if status not in ALLOWED:
        fault = f"{status.name} {sentence}"
    elif "Traceback" in sentence or "/tests/" in sentence or "site-packages" in sentence:
        fault = f"the sentence tells of our insides: {sentence}"
    return Answer(status.name, fault)


@contextmanager
def exploration(
    runner: asyncio.Runner,
    address: str,
    ask: Callable[[Client], Callable[[Any], Awaitable[Answer]]],
    num: int,
    seed: int,
) -> Iterator[Exploration[Any]]:
    async def connect() -> Client:
        return Client(address)

    client = runner.run(connect())
    exploring: Exploration[Case] = Exploration(ask(client), client.is_well, runner, num, seed)
    try:
        yield exploring
        assert len(exploring.outcomes) > 1, f"the cases are all alike: {exploring.outcomes}"
    finally:
        runner.run(client.channel.close())
        sys.stdout.write(
            f"{dict(exploring.outcomes)}; slowest {exploring.slowest_s:.2f} s: {exploring.slowest[:300]}\n"
        )


@TARGETS
def test_spoiled_requests_are_refused(service: str, unharmed: Served, runner: asyncio.Runner, effort: Effort) -> None:
    num_cases = effort.share(0.25 if service == "predictor" else 0.15)

    with exploration(
        runner, unharmed.grpc_address(service), lambda client: client.infer, num_cases, effort.seed
    ) as exploring:
        exploring.explore(infer_cases())


@TARGETS
def test_streams_go_on_or_end_with_the_clients_fault(
    service: str, unharmed: Served, runner: asyncio.Runner, effort: Effort
) -> None:
    messages = st.lists(infer_cases(max_changes=2), min_size=1, max_size=4).map(tuple)

    with exploration(
        runner, unharmed.grpc_address(service), lambda client: client.stream, effort.share(0.05), effort.seed
    ) as exploring:
        exploring.explore(st.builds(StreamCase, messages))


@TARGETS
def test_all_other_calls_refuse_what_is_spoiled(
    service: str, unharmed: Served, runner: asyncio.Runner, effort: Effort
) -> None:
    with exploration(
        runner, unharmed.grpc_address(service), lambda client: client.rpc, effort.share(0.05), effort.seed
    ) as exploring:
        exploring.explore(rpc_cases())
