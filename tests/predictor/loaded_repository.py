"""A repository of fakes for tests, with what it told others and what its loader did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from predictor.loader import ModelSpec
from predictor.repository import ModelRepository, ModelState
from tests.predictor.fake_runtime import FakeLoader, spec


class Repository(ModelRepository):
    """A repository with a fake loader, which writes down what it tells others. A name may be `name:version`."""

    def __init__(self, *names: str, unload_timeout_s: float = 60.0, **options: Any) -> None:
        self.loader = FakeLoader()
        self.told: list[tuple[str, bool]] = []

        async def on_change(changed: ModelSpec, is_ready: bool) -> None:
            self.told.append((changed.name, is_ready))

        given = [name.partition(":") for name in names]
        specs = [spec(name, version=version or "1") for name, _, version in given]
        super().__init__(specs, self.loader, on_change, unload_timeout_s=unload_timeout_s, **options)

    def state(self, name: str, version: str = "") -> tuple[ModelState, str]:
        found = (status for status in self.index() if status.name == name and version in ("", status.version))
        return next((status.state, status.reason) for status in found)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 -- the condition belongs to the object under test
            await asyncio.sleep(0.001)
