"""Every method of the table attributes a small game and says what `game.py` promises."""

from __future__ import annotations

import numpy as np
import pytest

from explainer.methods import METHODS
from explainer.methods.game import Coalitions, Method, Options, Values
from mesh.plugins import load


class Sum:
    """Two subjects, three players: what is present, once and twice."""

    num_players = 3

    async def values(self, coalitions: Coalitions) -> Values:
        count = coalitions.sum(axis=1, dtype=np.float64)
        return np.stack([count, 2 * count], axis=1)


@pytest.mark.parametrize("name", METHODS)
async def test_a_method_gives_one_contribution_per_subject_and_player(name: str) -> None:
    method: Method = load(METHODS, name, "explanation method")()

    attributions = await method.attribute(Sum(), Options(seed=0, max_coalitions=100))

    np.testing.assert_allclose(attributions.contributions, [[1, 1, 1], [2, 2, 2]], atol=1e-9)
    np.testing.assert_allclose(attributions.score, [3, 6])
    if attributions.base_score is not None:
        np.testing.assert_allclose(attributions.base_score, [0, 0], atol=1e-12)
