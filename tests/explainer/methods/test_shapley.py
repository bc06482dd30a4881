"""Shapley values against planted models, a slow reference, and the axioms that define them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from explainer.methods.game import Coalitions, Options, Values
from explainer.methods.shapley import Shapley
from mesh.errors import InvalidInput

OPTIONS = Options(seed=7, max_coalitions=65_536)


class PlantedGame:
    """A game whose value is a known function of the coalition; counts what it is asked."""

    def __init__(self, num_players: int, value: Callable[[NDArray[np.bool_]], list[float]]) -> None:
        self.num_players = num_players
        self.num_calls = 0
        self.num_coalitions = 0
        self._value = value

    async def values(self, coalitions: Coalitions) -> Values:
        self.num_calls += 1
        self.num_coalitions += len(coalitions)
        return np.array([self._value(coalition) for coalition in coalitions])


def additive(weights: NDArray[np.float64], bias: float = 0.5) -> PlantedGame:
    return PlantedGame(len(weights), lambda coalition: [bias + float(weights[coalition].sum())])


def by_all_orders(game: PlantedGame) -> list[float]:
    """The definition, literally: the mean gain over all orders of joining."""
    totals = [0.0] * game.num_players
    for order in itertools.permutations(range(game.num_players)):
        present = np.zeros(game.num_players, dtype=np.bool_)
        for player in order:
            before = game._value(present)[0]
            present = present.copy()
            present[player] = True
            totals[player] += game._value(present)[0] - before
    return [total / math.factorial(game.num_players) for total in totals]


async def test_an_additive_models_own_terms_come_back_exactly_from_one_call() -> None:
    weights = np.random.default_rng(1).normal(size=10)
    game = additive(weights)

    attributions = await Shapley().attribute(game, OPTIONS)

    np.testing.assert_allclose(attributions.contributions, [weights], rtol=0, atol=1e-9)
    assert (game.num_calls, game.num_coalitions) == (1, 1024)
    assert attributions.base_score is not None
    assert attributions.base_score[0] == 0.5


async def test_values_equal_the_definition_where_players_interact() -> None:
    game = PlantedGame(5, lambda s: [3.0 * s[0] * s[1] - 2.0 * s[1] * s[2] * s[3] + (s.sum() > 2) + 0.25 * s[4]])

    attributions = await Shapley().attribute(game, OPTIONS)

    np.testing.assert_allclose(attributions.contributions[0], by_all_orders(game), rtol=0, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(num_players=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_axioms_hold_for_any_game(num_players: int, seed: int) -> None:
    """Efficiency for a random game; symmetry and null player for players made equal and without effect."""
    import asyncio

    table = np.random.default_rng(seed).normal(size=2**num_players)
    game = PlantedGame(num_players, lambda s: [float(table[int((s * 2 ** np.arange(num_players)).sum())])])

    attributions = asyncio.run(Shapley().attribute(game, OPTIONS))

    assert attributions.base_score is not None
    gap = attributions.score[0] - attributions.base_score[0]
    assert attributions.contributions[0].sum() == pytest.approx(gap, abs=1e-9)


async def test_equal_players_get_the_same_and_idle_ones_nothing() -> None:
    game = PlantedGame(4, lambda s: [float(s[0] and s[1]) + 2.0 * s[2]])

    attributions = await Shapley().attribute(game, OPTIONS)

    np.testing.assert_allclose(attributions.contributions[0], [0.5, 0.5, 2.0, 0.0], atol=1e-12)


async def test_subjects_are_explained_side_by_side() -> None:
    game = PlantedGame(3, lambda s: [float(s[0]), 2.0 * s[1] - s[2]])

    attributions = await Shapley().attribute(game, OPTIONS)

    np.testing.assert_allclose(attributions.contributions, [[1, 0, 0], [0, 2, -1]], atol=1e-12)


async def test_sampling_is_exact_for_additive_models_and_efficient_for_all() -> None:
    weights = np.random.default_rng(2).normal(size=40)
    attributions = await Shapley().attribute(additive(weights), OPTIONS)
    np.testing.assert_allclose(attributions.contributions, [weights], rtol=0, atol=1e-9)

    twisted = PlantedGame(40, lambda s: [float(np.tanh(weights[s].sum()) + s[0] * s[39])])
    attributions = await Shapley().attribute(twisted, OPTIONS)
    assert attributions.base_score is not None
    gap = attributions.score[0] - attributions.base_score[0]
    assert attributions.contributions[0].sum() == pytest.approx(gap, abs=1e-9)


async def test_sampled_values_come_near_the_exact_ones() -> None:
    weights = np.random.default_rng(3).normal(size=8)
    game = PlantedGame(8, lambda s: [float(np.tanh(weights[s].sum()))])
    exact = await Shapley().attribute(game, OPTIONS)

    sampled = await Shapley().attribute(game, Options(seed=1, max_coalitions=65_536, num_samples=2000))

    np.testing.assert_allclose(sampled.contributions, exact.contributions, atol=0.02)


async def test_a_seed_gives_the_same_answer_and_another_seed_another() -> None:
    game = PlantedGame(20, lambda s: [float(np.sin(s.sum() * s[3] + s[7]))])

    first, again, other = [
        (await Shapley().attribute(game, Options(seed=seed, max_coalitions=500))).contributions for seed in (1, 1, 2)
    ]

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


async def test_the_budget_of_coalitions_holds() -> None:
    game = additive(np.ones(100))

    await Shapley().attribute(game, Options(seed=0, max_coalitions=1000))

    assert game.num_coalitions <= 1000


@pytest.mark.parametrize(("max_coalitions", "num_samples"), [(50, 0), (1000, 64)])
async def test_a_budget_that_is_too_small_is_an_error_with_the_numbers(max_coalitions: int, num_samples: int) -> None:
    options = Options(seed=0, max_coalitions=max_coalitions, num_samples=num_samples)

    with pytest.raises(InvalidInput, match=rf"shapley over 100 parts .* the limit is {max_coalitions}"):
        await Shapley().attribute(additive(np.ones(100)), options)
