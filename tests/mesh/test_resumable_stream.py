"""Resumable streams over real servers: every message comes once, whichever replicas die, leave or refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest
from prometheus_client import CollectorRegistry

from mesh import departure
from mesh.errors import Internal, ModelNotReady, Unavailable
from mesh.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.pool import Channel
from mesh.resumable_stream import MAX_FAILED_IN_A_ROW, BrokenAnswer, CannotContinue
from mesh.testing import eventually
from tests.mesh.pool_rig import PREDICTOR, Answering, Source, pool_over, predictor, serving

NUM_MESSAGES = 6


class Counting(Answering):
    """Counts on from the number that the request's id says. Fails with `error` before message `fails_at`."""

    def __init__(self, name: str, fails_at: int = -1, error: Exception | None = None) -> None:
        super().__init__(name)
        self.fails_at = fails_at
        self.error = error or Unavailable("the engine died")

    async def ModelStreamInfer(
        self, requests: AsyncIterator[ModelInferRequest], _context: object
    ) -> AsyncIterator[ModelStreamInferResponse]:
        self.calls += 1
        request = await anext(aiter(requests))
        try:
            for number in range(int(request.id), NUM_MESSAGES):
                if number == self.fails_at and self.error is not None:
                    raise self.error
                if self.held is not None and number == 2:
                    await self.held.wait()
                yield ModelStreamInferResponse(infer_response=ModelInferResponse(model_name=self.name, id=str(number)))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Counter:
    """The call of a stream that counts: knows what came, and asks for the rest."""

    def __init__(self) -> None:
        self.num_seen = 0
        self.wrong: dict[str, Exception] = {}

    async def __call__(self, channel: Channel) -> AsyncGenerator[tuple[str, int], None]:
        requests = iter([ModelInferRequest(id=str(self.num_seen))])
        answers = GRPCInferenceServiceStub(channel).ModelStreamInfer(requests)
        try:
            async for answer in answers:
                response = answer.infer_response
                if response.model_name in self.wrong:
                    raise self.wrong[response.model_name]
                self.num_seen += 1
                yield response.model_name, int(response.id)
        finally:
            await answers.aclose()


def count(samples: CollectorRegistry, reason: str) -> float:
    labels = {"service": "predictor", "reason": reason}
    return samples.get_sample_value("meshserve_stream_resumptions_total", labels) or 0.0


@pytest.mark.parametrize("fails_at", range(NUM_MESSAGES))
async def test_every_message_comes_once_wherever_the_replica_fails(fails_at: int) -> None:
    dying, whole = Counting("dying", fails_at), Counting("whole")
    async with serving(dying, whole) as [first, second]:
        metrics = CollectorRegistry()
        async with pool_over(
            Source(predictor("dying", first), predictor("whole", second)), metrics_registry=metrics
        ) as pool:
            for _ in range(8):
                numbers = [number async for _, number in pool.resumable_stream(PREDICTOR, "iris", Counter())]
                assert numbers == list(range(NUM_MESSAGES))

    assert dying.calls > 0
    assert count(metrics, "error") == (dying.calls if fails_at else 0)


async def test_a_replica_that_fails_over_and_over_ends_the_stream_with_its_word() -> None:
    dying = Counting("dying", 2)
    async with serving(dying) as [address], pool_over(Source(predictor("a", address))) as pool:
        seen = []
        with pytest.raises(Unavailable, match="the engine died"):
            async for _, number in pool.resumable_stream(PREDICTOR, "iris", Counter()):
                seen.append(number)

    assert seen == [0, 1]
    assert dying.calls == 1 + MAX_FAILED_IN_A_ROW


async def test_an_error_that_another_replica_would_give_too_is_not_asked_for_again() -> None:
    broken = Counting("a", 2, Internal("a bug"))
    async with serving(broken) as [address], pool_over(Source(predictor("a", address))) as pool:
        with pytest.raises(Internal, match="a bug"):
            async for _ in pool.resumable_stream(PREDICTOR, "iris", Counter()):
                pass

    assert broken.calls == 1


async def test_a_replica_that_starts_its_engine_anew_is_waited_for() -> None:
    replica = Counting("a", 2)
    async with serving(replica) as [address], pool_over(Source(predictor("a", address))) as pool:
        stream = pool.resumable_stream(PREDICTOR, "iris", Counter())
        seen = [await anext(stream), await anext(stream)]
        replica.error = ModelNotReady("the engine starts")
        rest = asyncio.ensure_future(_all(stream))
        await eventually(lambda: replica.calls > 1 + MAX_FAILED_IN_A_ROW + 1)
        replica.error = None

        assert [number for _, number in [*seen, *await rest]] == list(range(NUM_MESSAGES))


async def test_a_replica_that_comes_is_waited_for_when_the_last_one_is_gone() -> None:
    async with serving(Counting("new")) as [later]:
        source = Source()
        async with pool_over(source) as pool:
            async with serving(Counting("old", 3)) as [address]:
                source.view = Source(predictor("old", address)).view
                stream = pool.resumable_stream(PREDICTOR, "iris", Counter())
                seen = [await anext(stream) for _ in range(3)]
                source.view = Source().view
                rest = asyncio.ensure_future(_all(stream))
            await asyncio.sleep(0)
            source.view = Source(predictor("new", later)).view

            assert [*seen, *await rest] == [("old", i) for i in range(3)] + [("new", i) for i in range(3, 6)]


async def test_a_stream_without_a_replica_at_its_start_fails_at_once() -> None:
    async with pool_over(Source()) as pool:
        with pytest.raises(Unavailable, match="no ready predictor for 'iris'"):
            await anext(pool.resumable_stream(PREDICTOR, "iris", Counter()))


async def test_garbage_is_not_believed_and_another_replica_goes_on() -> None:
    metrics = CollectorRegistry()
    async with serving(Counting("good", 3), Counting("bad"), Counting("whole")) as [good, bad, whole]:
        source = Source(predictor("good", good))
        async with pool_over(source, metrics_registry=metrics) as pool:
            call = Counter()
            call.wrong = {"bad": BrokenAnswer("it is garbage")}
            stream = pool.resumable_stream(PREDICTOR, "iris", call)
            seen = [await anext(stream) for _ in range(3)]
            source.view = Source(predictor("good", good), predictor("bad", bad), predictor("whole", whole)).view
            seen += [message async for message in stream]

    assert [number for _, number in seen] == list(range(NUM_MESSAGES))
    assert seen[-1][0] == "whole"


async def test_a_replica_with_another_model_is_passed_over_and_not_blamed() -> None:
    metrics = CollectorRegistry()
    async with serving(Counting("old", 3), Counting("other"), Counting("same")) as [old, other, same]:
        source = Source(predictor("old", old))
        async with pool_over(source, metrics_registry=metrics, policy="round_robin") as pool:
            call = Counter()
            call.wrong = {"other": CannotContinue("replica other has another model")}
            stream = pool.resumable_stream(PREDICTOR, "iris", call)
            seen = [await anext(stream) for _ in range(3)]
            source.view = Source(predictor("other", other)).view
            rest = asyncio.ensure_future(_all(stream))
            await eventually(lambda: count(metrics, "other_model") > 0)
            source.view = Source(predictor("other", other), predictor("same", same)).view
            seen += await rest

    assert seen == [("old", i) for i in range(3)] + [("same", i) for i in range(3, 6)]
    assert metrics.get_sample_value("meshserve_next_hop_ejections_total", {"service": "predictor"}) is None


async def test_a_stream_moves_away_from_a_replica_that_leaves() -> None:
    leaving, staying = Counting("leaving"), Counting("staying")
    leaving.held = asyncio.Event()
    metrics = CollectorRegistry()
    async with serving(leaving, staying) as [first, second]:
        source = Source(predictor("leaving", first))
        async with pool_over(source, metrics_registry=metrics) as pool:
            stream = pool.resumable_stream(PREDICTOR, "iris", Counter())
            seen = [await anext(stream), await anext(stream)]
            source.view = Source(predictor("staying", second)).view
            pool.notice(source.view)
            seen += [message async for message in stream]
            async with asyncio.timeout(5):
                await leaving.cancelled.wait()

    assert seen == [("leaving", 0), ("leaving", 1), *(("staying", i) for i in range(2, 6))]
    assert count(metrics, "left") == 1


async def test_a_stream_on_the_only_replica_stays_when_that_leaves() -> None:
    leaving = Counting("leaving")
    leaving.held = asyncio.Event()
    async with serving(leaving) as [address]:
        source = Source(predictor("leaving", address))
        async with pool_over(source) as pool:
            stream = pool.resumable_stream(PREDICTOR, "iris", Counter())
            seen = [await anext(stream), await anext(stream)]
            source.view = Source().view
            pool.notice(source.view)
            asyncio.get_running_loop().call_later(departure.GRACE_S + 0.1, leaving.held.set)
            seen += [message async for message in stream]

    assert seen == [("leaving", i) for i in range(6)]


async def test_leaving_the_stream_early_cancels_it_at_the_replica() -> None:
    replica = Counting("a")
    replica.held = asyncio.Event()
    async with serving(replica) as [address], pool_over(Source(predictor("a", address))) as pool:
        async with aclosing(pool.resumable_stream(PREDICTOR, "iris", Counter())) as stream:
            await anext(stream)
        async with asyncio.timeout(5):
            await replica.cancelled.wait()


async def _all(stream: AsyncGenerator[tuple[str, int], None]) -> list[tuple[str, int]]:
    return [message async for message in stream]
