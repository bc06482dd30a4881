"""A predictor's load report has what its engines and queues hold, over all models in memory."""

from __future__ import annotations

import pytest

from mesh.load_meter import Holdings
from predictor.holdings import holdings_of
from predictor.llm.outputs import EngineStats
from predictor.loader import ModelSpec
from predictor.repository import ModelRepository
from tests.predictor.fake_language_model import EchoLanguageModel
from tests.predictor.fake_runtime import FakeLoader, spec


class Busy(EchoLanguageModel):
    def stats(self) -> EngineStats:
        return EngineStats(num_waiting=3, num_waiting_tokens=30, num_blocks=8, num_free_blocks=2, max_num_seqs=16)


class Idle(EchoLanguageModel):
    def stats(self) -> EngineStats:
        return EngineStats(num_blocks=8, num_free_blocks=8, max_num_seqs=4)


async def holdings(**models: type[EchoLanguageModel]) -> Holdings:
    async def on_change(changed: ModelSpec, is_ready: bool) -> None:
        pass

    specs = [*(spec(name, name) for name in models), spec("table")]
    repository = ModelRepository(specs, FakeLoader(**models), on_change)
    assert holdings_of(repository) == Holdings()  # nothing is loaded yet
    await repository.load_all()
    return holdings_of(repository)


@pytest.mark.parametrize("names", [["busy", "idle"], ["idle", "busy"]])
async def test_engines_add_up_and_the_fullest_cache_counts(names: list[str]) -> None:
    models: dict[str, type[EchoLanguageModel]] = {"busy": Busy, "idle": Idle}

    held = await holdings(**{name: models[name] for name in names})

    assert held == Holdings(queued=3, queued_tokens=30, kv_usage=0.75, num_places=20)


async def test_without_language_models_there_are_as_many_places_as_cpus() -> None:
    assert (await holdings()).num_places == 0
