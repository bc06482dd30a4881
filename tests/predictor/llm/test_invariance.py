"""The probe tells backends whose results depend on company from those whose do not, and what the engine does then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from predictor.llm.factory import EngineModel
from predictor.llm.invariance import is_batch_invariant
from predictor.llm.messages import EngineSpec
from predictor.llm.outputs import GenerationOutput
from predictor.llm.settings import EngineSettings
from predictor.llm.step import ChunkResult, StepPlan
from predictor.llm.worker import build_engine
from tests.predictor.llm import hash_model
from tests.predictor.llm.engines import GREEDY, generation
from tests.predictor.llm.hash_model import VOCAB_SIZE, HashBackend, continuation


class SociableBackend(HashBackend):
    """Scores change in the last place when a step has more than `limit` tokens, as a GPU's do."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def execute(self, plan: StepPlan) -> list[ChunkResult]:
        results = super().execute(plan)
        if plan.num_tokens <= self.limit:
            return results
        return [
            replace(result, scores=tuple(replace(entry, logprob=entry.logprob - 1e-7) for entry in result.scores))
            for result in results
        ]


def probe(backend: HashBackend, num_blocks: int = 40) -> bool:
    backend.allocate(num_blocks, 16)
    return is_batch_invariant(backend, num_blocks, 16, VOCAB_SIZE - 4)


@pytest.mark.parametrize("limit", [1, 2, 8, 32, 69])
def test_company_that_shows_is_found(limit: int) -> None:
    assert not probe(SociableBackend(limit))


def test_company_that_does_not_show_is_not_found() -> None:
    assert probe(HashBackend())
    assert probe(SociableBackend(10_000))


def test_a_cache_without_room_is_not_tried() -> None:
    assert probe(SociableBackend(1), num_blocks=14)


@pytest.mark.parametrize("wants_determinism", [False, True])
def test_determinism_is_had_one_token_at_a_time_where_kernels_do_not_give_it(wants_determinism: bool) -> None:
    backend = SociableBackend(1)
    model = replace(hash_model.load(Path("model"), EngineSettings(), lambda stage, share: None), backend=backend)
    engine_model: EngineModel = model
    settings = EngineSettings(kv_cache_bytes=2**20, deterministic=wants_determinism)

    engine, info = build_engine(engine_model, EngineSpec(Path("model"), settings))

    assert info.is_proved_deterministic is wants_determinism
    for name in "ab":
        engine.add(generation(name, (1, 2, 3), 5))
    tokens: dict[str, list[int]] = {"a": [], "b": []}
    sizes = set()
    while engine.has_work:
        for output in engine.step():
            assert isinstance(output, GenerationOutput)
            tokens[output.request_id] += output.token_ids
        sizes.add(backend.plan.num_tokens)
    assert tokens == {name: continuation((1, 2, 3), 5, GREEDY) for name in "ab"}
    assert (sizes == {1}) is wants_determinism
