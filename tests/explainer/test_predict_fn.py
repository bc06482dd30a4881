"""Batches of questions to the predictor: their sizes, their order, what they cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from explainer.predict_fn import BatchLimits, PredictFn, Target
from mesh.pool import EndpointPool
from mesh.view import MeshView


@pytest.fixture
async def ask(rig: Any) -> Any:
    """A function that makes a PredictFn with given limits."""
    pool = EndpointPool(lambda: MeshView(rig.deployments, rig.replicas))
    yield lambda **limits: PredictFn(pool, "llm", "", BatchLimits(**limits))
    await pool.close()


async def test_prompts_are_split_by_number_and_by_bytes(rig: Any, ask: Any) -> None:
    predict_fn = ask(max_prompts=3, max_prompt_bytes=10)

    scores = await predict_fn.score(["capital", "ééééé", "a", "b", "c", "d", "x" * 50], Target("t"))

    sent = [[item.text for item in call.items] for call in rig.predictor.score_requests]
    assert sent == [["capital"], ["ééééé"], ["a", "b", "c"], ["d"], ["x" * 50]]
    np.testing.assert_allclose(scores, [-8, -10, -10, -10, -10, -10, -10])
    assert (predict_fn.num_calls, predict_fn.model_version) == (5, "3")


async def test_prompts_are_taken_only_as_they_are_sent(rig: Any, ask: Any) -> None:
    taken: list[int] = []

    def prompts() -> Any:
        for index in range(6):
            taken.append(index)
            if index == 5:
                assert len(rig.predictor.score_requests) == 2
            yield "a"

    await ask(max_prompts=2).score(prompts(), Target("t"))

    assert taken == list(range(6))


async def test_targets_are_tokens_where_they_are_known(rig: Any, ask: Any) -> None:
    await ask().score(["a"], Target("text", (7, 8)))
    await ask().score(["a"], Target("text"))

    [with_tokens], [with_text] = (call.items for call in rig.predictor.score_requests)
    assert list(with_tokens.target_token_ids.ids) == [7, 8]
    assert with_text.target_text == "text"


async def test_rows_are_split_and_joined_in_order(rig: Any, ask: Any) -> None:
    rows = np.arange(20, dtype=np.float64).reshape(5, 4)

    outputs = await ask(max_rows=2).infer("input", "FP64", rows)

    assert [call.inputs[0].shape[0] for call in rig.predictor.infer_requests] == [2, 2, 1]
    np.testing.assert_array_equal(outputs["probabilities"][:, 0], rows @ [1.0, 0.0, 0.5, 0.0])


async def test_an_answer_that_was_cut_keeps_its_last_token(rig: Any, ask: Any) -> None:
    rig.predictor.finish_reason = 2  # FINISH_REASON_LENGTH

    answer = await ask().greedy_answer("a", max_tokens=3)

    assert answer == Target("Paris", (5, 6, 2))
