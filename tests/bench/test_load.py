"""The load generator against a client that answers by a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from bench.llm.answer import BadAnswer, Part, Usage
from bench.llm.load import ask, run_load
from bench.llm.workloads import Request


class ScriptedClient:
    """Gives `parts` to every request; counts how many run, and how many were closed before their end."""

    def __init__(self, parts: list[Part], error: str | None = None) -> None:
        self.parts, self.error = parts, error
        self.running = self.most_running = self.closed_early = 0

    async def complete(self, prompt: str, max_tokens: int) -> AsyncGenerator[Part, None]:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        is_whole = False
        try:
            for part in self.parts:
                await asyncio.sleep(0)
                yield part
            if self.error is not None:
                raise BadAnswer(self.error)
            is_whole = True
        finally:
            self.running -= 1
            self.closed_early += not is_whole

    async def close(self) -> None: ...


TEXT, SILENT, LAST = Part(True), Part(False), Part(False, Usage(30, 3))


async def test_parts_without_text_are_not_timed_and_the_usage_is_kept() -> None:
    answer = await ask(ScriptedClient([SILENT, TEXT, TEXT, LAST]), Request("x", 30, 3))

    assert (len(answer.part_times), answer.usage, answer.error) == (2, Usage(30, 3), None)
    assert answer.started_at <= answer.part_times[0] <= answer.part_times[1] <= answer.ended_at


async def test_as_many_run_at_a_time_as_asked_for() -> None:
    client = ScriptedClient([TEXT, LAST])

    answers = await run_load(client, [Request(str(i), 30, 3) for i in range(20)], concurrency=4)

    assert (len(answers), client.most_running, client.running) == (20, 4, 0)


async def test_a_request_that_goes_away_closes_its_stream_and_is_no_failure() -> None:
    client = ScriptedClient([TEXT] * 10 + [LAST])

    answer = await ask(client, Request("x", 30, 3, cancel_after_parts=2))

    assert (answer.is_cancelled, answer.error, len(answer.part_times), client.closed_early) == (True, None, 2, 1)


async def test_a_failure_is_an_answer_with_an_error() -> None:
    answer = await ask(ScriptedClient([TEXT], error="503: loading"), Request("x", 30, 3))

    assert (answer.error, len(answer.part_times)) == ("503: loading", 1)


async def test_an_answer_of_another_length_than_asked_for_is_a_failure() -> None:
    long_prompt = await ask(ScriptedClient([TEXT, LAST]), Request("x", 29, 3))
    short_output = await ask(ScriptedClient([TEXT, LAST]), Request("x", 30, 4))
    uncounted = await ask(ScriptedClient([TEXT]), Request("x", 30, 3))

    assert all(answer.error for answer in (long_prompt, short_output, uncounted))
