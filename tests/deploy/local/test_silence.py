"""Silence is news when it lasts, and its end takes the timers away."""

from __future__ import annotations

import asyncio

from deploy.local.health import Health
from deploy.local.silence import Silence, SilencePolicy


class Told:
    """What a silence said, in order."""

    def __init__(self, lasting_s: float, frozen_s: float) -> None:
        self.words: list[str] = []
        self.news = asyncio.Event()
        policy = SilencePolicy(lasting_s, frozen_s)
        self.silence = Silence(policy, lambda: self.say("lasting"), lambda: self.say("frozen"))

    def say(self, word: str) -> None:
        self.words.append(word)
        self.news.set()


async def test_silence_that_lasts_is_told_and_then_given_up() -> None:
    told = Told(lasting_s=0.01, frozen_s=0.02)

    told.silence.hear(Health.NO_ANSWER)
    async with asyncio.timeout(10):
        while len(told.words) < 2:
            told.news.clear()
            await told.news.wait()

    assert told.words == ["lasting", "frozen"]
    assert told.silence.is_told


async def test_a_service_that_says_it_does_not_serve_is_not_frozen() -> None:
    told = Told(lasting_s=0.02, frozen_s=0.01)

    told.silence.hear(Health.NO_ANSWER)
    told.silence.hear(Health.NOT_SERVING)
    await asyncio.wait_for(told.news.wait(), 10)

    assert told.words == ["lasting"]


async def test_a_service_that_serves_again_is_no_news() -> None:
    told, marker = Told(lasting_s=0.01, frozen_s=0.01), asyncio.Event()

    told.silence.hear(Health.NO_ANSWER)
    told.silence.hear(Health.SERVING)
    asyncio.get_running_loop().call_later(0.02, marker.set)
    await marker.wait()

    assert told.words == []
    assert not told.silence.is_told
