"""A real engine process behind the client: what callers get while it works, hangs, dies, and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from mesh.errors import CorruptArtifact, Internal, InvalidInput, ModelNotReady, Overloaded, PromptTooLong, Unavailable
from predictor.llm.client import EngineClient, EngineState
from predictor.llm.messages import EngineSpec
from predictor.llm.outputs import GenerationOutput
from predictor.llm.sequence import FinishReason, GenerationRequest, RejectionReason, ScoreRequest
from predictor.llm.settings import EngineSettings
from tests.predictor.llm.engines import GREEDY, generation
from tests.predictor.llm.hash_model import (
    DIE_ID,
    FAIL_ID,
    HANG_ID,
    MAX_CONTEXT_TOKENS,
    HashVocabulary,
    continuation,
    scores,
)

SETTINGS = EngineSettings(
    kv_cache_bytes=4 * 1024 * 1024,
    max_num_seqs=4,
    max_num_batched_tokens=64,
    restart_delay_s=0.01,
)
IMPATIENT = replace(SETTINGS, heartbeat_interval_s=0.1, heartbeat_timeout_s=1.0)
FACTORY = "tests.predictor.llm.hash_model:load"
ENDLESS = generation("endless", max_tokens=4000)


@asynccontextmanager
async def started(
    settings: EngineSettings = SETTINGS, states: list[EngineState] | None = None
) -> AsyncIterator[EngineClient]:
    spec = EngineSpec(Path("hash"), settings, FACTORY)
    client = EngineClient(spec, HashVocabulary(), [].append if states is None else states.append)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  it also looks at other processes
            await asyncio.sleep(0.005)


async def whole(client: EngineClient, request: GenerationRequest) -> GenerationOutput:
    """All outputs of a request as one."""
    joined: GenerationOutput | None = None
    async with aclosing(client.generate(request)) as outputs:
        async for output in outputs:
            joined = output if joined is None else joined.followed_by(output)
    assert joined is not None
    return joined


def is_idle(client: EngineClient) -> bool:
    stats = client.stats()
    return stats.num_running == stats.num_waiting == 0 and stats.num_free_blocks == stats.num_blocks > 0


async def test_concurrent_generations_each_get_their_own_tokens() -> None:
    async with started() as client:
        requests = [generation("same id", (i, 2, 3), 30) for i in range(40)]

        outputs = await asyncio.gather(*(whole(client, request) for request in requests))

        for request, output in zip(requests, outputs, strict=True):
            assert output.request_id == "same id"
            assert list(output.token_ids) == continuation(request.prompt_token_ids, 30, GREEDY)
            assert output.finish_reason is FinishReason.LENGTH
            assert output.usage.num_output_tokens == 30
        await until(lambda: is_idle(client))


async def test_scores_come_in_hundreds_without_filling_the_queue() -> None:
    async with started(replace(SETTINGS, max_num_waiting=1)) as client:
        prefix, targets = tuple(range(40)), (1, 2, 3)

        outputs = await asyncio.gather(*(client.score(ScoreRequest("s", (i, *prefix), targets)) for i in range(200)))

        for i, output in enumerate(outputs):
            assert output.logprobs == tuple(scores((i, *prefix), targets))


async def test_closing_the_iterator_frees_the_blocks() -> None:
    async with started() as client:
        async with aclosing(client.generate(ENDLESS)) as outputs:
            await anext(outputs)
        await until(lambda: is_idle(client))


async def test_cancelling_the_reader_frees_the_blocks() -> None:
    async with started() as client:
        readers = [asyncio.create_task(whole(client, ENDLESS)) for _ in range(8)]
        await until(lambda: client.stats().num_running == 4)

        for reader in readers:
            reader.cancel()

        await asyncio.gather(*readers, return_exceptions=True)
        await until(lambda: is_idle(client))


async def test_a_client_may_leave_at_any_moment() -> None:
    async with started() as client:
        for num_turns in range(60):
            reader = asyncio.create_task(whole(client, ENDLESS))
            for _ in range(num_turns):
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

        assert (await whole(client, generation(max_tokens=5))).usage.num_output_tokens == 5
        await until(lambda: is_idle(client))


async def test_a_slow_reader_gets_fewer_and_larger_pieces() -> None:
    async with started() as client, aclosing(client.generate(generation(max_tokens=500))) as outputs:
        first = await anext(outputs)
        await until(lambda: is_idle(client))

        rest = await anext(outputs)

        assert [*first.token_ids, *rest.token_ids] == continuation((1, 2, 3), 500, GREEDY)
        assert rest.finish_reason is FinishReason.LENGTH


async def test_what_is_too_much_is_refused_at_once() -> None:
    async with started(replace(SETTINGS, max_num_seqs=1, max_num_waiting=2)) as client:
        readers = [asyncio.create_task(whole(client, ENDLESS)) for _ in range(3)]
        await until(lambda: client.stats().num_running + client.stats().num_waiting == 3)

        with pytest.raises(Overloaded, match="at most 1 run and 2 wait"):
            await whole(client, ENDLESS)

        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        await until(lambda: is_idle(client))
        assert (await whole(client, generation(max_tokens=2))).usage.num_output_tokens == 2


async def test_the_engine_refuses_too_many_waiting_tokens() -> None:
    async with started(replace(SETTINGS, max_num_seqs=1, max_num_waiting_tokens=100)) as client:
        first = asyncio.create_task(whole(client, ENDLESS))
        await until(lambda: client.stats().num_running == 1)
        second = asyncio.create_task(whole(client, generation(prompt=(1,) * 200)))
        await until(lambda: client.stats().num_waiting == 1)

        with pytest.raises(Overloaded, match="200 tokens are waiting"):
            await whole(client, ENDLESS)

        for reader in (first, second):
            reader.cancel()
        await asyncio.gather(first, second, return_exceptions=True)


async def test_wrong_requests_are_refused_before_they_reach_the_engine() -> None:
    async with started() as client:
        with pytest.raises(InvalidInput, match="temperature is nan"):
            await whole(client, generation(sampling=replace(GREEDY, temperature=float("nan"))))
        with pytest.raises(PromptTooLong):
            await whole(client, generation(prompt=(1,) * MAX_CONTEXT_TOKENS))
        with pytest.raises(InvalidInput, match="target is empty"):
            await client.score(ScoreRequest("s", (1,), ()))
        assert client.stats().num_steps == 0


async def test_an_endless_text_is_refused_without_tokenizing_it() -> None:
    async with started() as client:
        assert await client.encode("abc") == [97, 98, 99]
        with pytest.raises(PromptTooLong, match="10000000 characters"):
            await client.encode("a" * 10_000_000)


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_killed_engine_ends_its_streams_and_comes_back(ending: signal.Signals) -> None:
    states: list[EngineState] = []
    async with started(states=states) as client:
        outputs = client.generate(ENDLESS)
        tokens = list((await anext(outputs)).token_ids)
        assert client.pid is not None
        os.kill(client.pid, ending)

        with pytest.raises(Unavailable):
            async for output in outputs:
                tokens += output.token_ids

        assert tokens == continuation((1, 2, 3), len(tokens), GREEDY)
        with pytest.raises(ModelNotReady):
            await whole(client, ENDLESS)
        await until(lambda: client.state is EngineState.READY)
        continued = await whole(client, generation(max_tokens=len(tokens) + 5, continue_from=tuple(tokens)))
        assert [*tokens, *continued.token_ids] == continuation((1, 2, 3), len(tokens) + 5, GREEDY)
    assert states == [
        EngineState.LOADING,
        EngineState.READY,
        EngineState.DEAD,
        EngineState.LOADING,
        EngineState.READY,
        EngineState.STOPPED,
    ]


async def test_a_hung_engine_is_seen_and_replaced() -> None:
    async with started(IMPATIENT) as client:
        pid = client.pid

        with pytest.raises(Unavailable):
            await whole(client, generation(prompt=(1, HANG_ID)))

        await until(lambda: client.state is EngineState.READY)
        assert client.pid != pid
        assert (await whole(client, generation(max_tokens=3))).usage.num_output_tokens == 3


async def test_a_stopped_idle_engine_is_seen_and_replaced() -> None:
    async with started(IMPATIENT) as client:
        pid = client.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)

        await until(lambda: client.state is EngineState.READY and client.pid != pid)

        assert not psutil.pid_exists(pid)


async def test_a_step_that_fails_fails_its_requests_only() -> None:
    async with started(replace(SETTINGS, max_num_seqs=1)) as client:
        pid = client.pid
        good = asyncio.create_task(whole(client, generation("good", max_tokens=300)))
        await until(lambda: client.stats().num_running == 1)

        with pytest.raises(Internal, match="request bad"):
            await whole(client, generation("bad", (1, FAIL_ID)))

        assert list((await good).token_ids) == continuation((1, 2, 3), 300, GREEDY)
        assert client.pid == pid


async def test_an_engine_that_fails_step_after_step_is_replaced() -> None:
    async with started(replace(SETTINGS, max_num_seqs=1)) as client:
        pid = client.pid
        bad = [whole(client, generation(f"{i}", (1, FAIL_ID))) for i in range(3)]

        errors = await asyncio.gather(*bad, return_exceptions=True)

        assert [type(error) for error in errors] == [Internal, Internal, Unavailable]
        await until(lambda: client.state is EngineState.READY)
        assert client.pid != pid


async def test_restarts_wait_longer_each_time() -> None:
    settings = replace(SETTINGS, restart_delay_s=0.05, max_restart_delay_s=100.0)
    async with started(settings) as client:
        pauses = []
        for _ in range(3):
            with pytest.raises(Unavailable):
                await whole(client, generation(prompt=(1, DIE_ID)))
            died_at = time.monotonic()
            await until(lambda: client.state is EngineState.LOADING)
            pauses.append(time.monotonic() - died_at)
            await until(lambda: client.state is EngineState.READY)

    assert pauses[0] >= 0.05
    assert pauses[1] >= 0.10
    assert pauses[2] >= 0.20


async def test_a_model_that_cannot_be_loaded_says_why_and_leaves_no_process() -> None:
    client = EngineClient(EngineSpec(Path("corrupt"), SETTINGS, FACTORY), HashVocabulary())

    with pytest.raises(CorruptArtifact, match="corrupt is not a model"):
        await client.start()

    assert client.state is EngineState.STOPPED
    assert client.pid is None
    with pytest.raises(ModelNotReady):
        await whole(client, ENDLESS)


async def test_a_load_that_falls_silent_is_given_up() -> None:
    client = EngineClient(EngineSpec(Path("slow"), replace(SETTINGS, load_timeout_s=1.0), FACTORY), HashVocabulary())

    with pytest.raises(Unavailable, match="said nothing for 1 s"):
        await client.start()

    assert client.pid is None


async def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    client = EngineClient(EngineSpec(Path("slow"), SETTINGS, FACTORY), HashVocabulary())
    start = asyncio.create_task(client.start())
    await until(lambda: client.pid is not None)
    pid = client.pid
    assert pid is not None

    start.cancel()
    await asyncio.gather(start, return_exceptions=True)

    assert not psutil.pid_exists(pid)
    await client.stop()


async def test_stopping_ends_what_runs_and_may_be_done_twice() -> None:
    async with started() as client:
        reader = asyncio.create_task(whole(client, ENDLESS))
        await until(lambda: client.stats().num_running == 1)
        pid = client.pid
        assert pid is not None

        await client.stop()
        await client.stop()

        with pytest.raises(Unavailable):
            await reader
        assert client.state is EngineState.STOPPED
        assert not psutil.pid_exists(pid)


async def test_progress_of_the_load_is_told() -> None:
    told: list[tuple[str, float]] = []
    client = EngineClient(EngineSpec(Path("hash"), SETTINGS, FACTORY), HashVocabulary())

    await client.start(lambda stage, share: told.append((stage, share)))
    await client.stop()

    assert told == [("weights", 0.5), ("warm-up", 0.0)]


async def test_an_idle_engine_uses_no_processor_time() -> None:
    async with started() as client:
        await whole(client, generation())
        assert client.pid is not None
        process = psutil.Process(client.pid)
        before = process.cpu_times()

        await asyncio.sleep(0.5)

        after = process.cpu_times()
        assert (after.user + after.system) - (before.user + before.system) <= 0.01


async def test_a_look_at_the_engine_between_two_steps() -> None:
    async with started() as client, aclosing(client.generate(ENDLESS)) as outputs:
        await anext(outputs)

        looks = await asyncio.gather(*(client.inspect(10.0) for _ in range(100)))

        assert {len(look.running) for look in looks} == {1}
        assert len({id(look) for look in looks}) == 1  # who asks at the same time shares one


async def test_each_step_is_told_with_its_tokens() -> None:
    steps: list[int] = []
    client = EngineClient(EngineSpec(Path("hash"), SETTINGS, FACTORY), HashVocabulary(), on_step=steps.append)
    await client.start()

    await whole(client, generation(prompt=(1,) * 100, max_tokens=3))
    await client.stop()

    assert steps == [64, 36, 1, 1]


async def test_a_refusal_by_the_client_or_by_the_engine_is_counted() -> None:
    async with started(replace(SETTINGS, max_num_seqs=1, max_num_waiting=1, max_num_waiting_tokens=100)) as client:
        readers = [asyncio.create_task(whole(client, ENDLESS))]
        await until(lambda: client.stats().num_running == 1)
        readers.append(asyncio.create_task(whole(client, generation(prompt=(1,) * 200))))
        await until(lambda: client.stats().num_waiting == 1)

        with pytest.raises(Overloaded, match="at most 1 run and 1 wait"):
            await whole(client, ENDLESS)
        readers[0].cancel()
        await asyncio.gather(readers[0], return_exceptions=True)
        await readers[1]

        assert client.stats().num_rejected == {RejectionReason.REQUESTS: 1}


async def test_outputs_that_a_dead_engine_lost_are_counted_as_errors() -> None:
    async with started() as client:
        with pytest.raises(Unavailable):
            await whole(client, generation(prompt=(1, DIE_ID), n=3))

        assert client.stats().num_finished == {FinishReason.ERROR: 3}
        assert client.stats().num_deaths == 1
