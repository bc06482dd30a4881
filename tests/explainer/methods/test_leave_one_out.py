"""Leave one out on planted scorers."""

from __future__ import annotations

import numpy as np
import pytest

from explainer.methods.game import Coalitions, Options, Values
from explainer.methods.leave_one_out import LeaveOneOut
from mesh.errors import InvalidInput

OPTIONS = Options(seed=0, max_coalitions=1000)


class Additive:
    """Value: a bias and one weight per player that is present; one column per subject."""

    def __init__(self, weights: list[list[float]]) -> None:
        self._weights = np.array(weights)  # [R, P]
        self.num_players = self._weights.shape[1]
        self.num_calls = 0

    async def values(self, coalitions: Coalitions) -> Values:
        self.num_calls += 1
        return -1.0 + coalitions @ self._weights.T


async def test_planted_weights_come_back_from_one_call() -> None:
    game = Additive([[1.0, -2.0, 0.0, 4.5], [0.0, 0.5, 0.25, 0.0]])

    attributions = await LeaveOneOut().attribute(game, OPTIONS)

    np.testing.assert_allclose(attributions.contributions, [[1.0, -2.0, 0.0, 4.5], [0.0, 0.5, 0.25, 0.0]], atol=1e-12)
    np.testing.assert_allclose(attributions.score, [2.5, -0.25])
    assert attributions.base_score is None
    assert game.num_calls == 1


async def test_too_many_parts_are_an_error_with_the_numbers() -> None:
    with pytest.raises(InvalidInput, match="leave_one_out over 4 parts takes 5 evaluations; the limit is 4"):
        await LeaveOneOut().attribute(Additive([[1.0] * 4]), Options(seed=0, max_coalitions=4))
