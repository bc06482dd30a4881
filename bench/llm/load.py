"""Sends the requests of a workload and writes down when each part of each answer came. Knows no statistics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from time import perf_counter

from bench.llm.answer import Answer, BadAnswer, Client, Usage
from bench.llm.workloads import Request


async def run_load(client: Client, requests: Sequence[Request], concurrency: int) -> list[Answer]:
    """The answers, in the order of the requests: `concurrency` clients, each asks again once it has its answer."""
    numbered = iter(enumerate(requests))
    answers: dict[int, Answer] = {}

    async def ask_on() -> None:
        for number, request in numbered:
            answers[number] = await ask(client, request)

    async with asyncio.TaskGroup() as clients:
        for _ in range(min(concurrency, len(requests))):
            clients.create_task(ask_on())
    return [answers[number] for number in range(len(requests))]


async def ask(client: Client, request: Request) -> Answer:
    """One request, timed. A failure is an answer with `error`: it must show in the figures, not end them."""
    started_at = perf_counter()
    times: list[float] = []
    usage: Usage | None = None
    error: str | None = None
    is_cancelled = False
    try:
        async with aclosing(client.complete(request.prompt, request.max_tokens)) as parts:
            async for part in parts:
                if part.has_text:
                    times.append(perf_counter())
                usage = part.usage or usage
                if request.cancel_after_parts and len(times) >= request.cancel_after_parts:
                    is_cancelled = True
                    break
    except BadAnswer as bad:
        error = str(bad)
    ended_at = perf_counter()
    if error is None and not is_cancelled:
        error = _mistake(request, usage)
    return Answer(started_at, ended_at, tuple(times), usage, is_cancelled, error)


def _mistake(request: Request, usage: Usage | None) -> str | None:
    """Why an answer that came to its end is not what was asked for: then its figures compare with nobody's."""
    if usage is None:
        return "the server did not say how many tokens it made"
    asked = Usage(request.prompt_tokens, request.max_tokens)
    return None if usage == asked else f"asked for {asked}, got {usage}"
