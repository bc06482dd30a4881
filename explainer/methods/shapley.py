"""Shapley values: a player's contribution, averaged over all orders in which players can join.

The only attribution that is efficient (contributions sum up to score minus base score), symmetric, additive, and zero
for players without effect (Shapley, 1953). Exact for few players, by all 2^P coalitions; for more, over a sample of
orders (Castro et al., 2009), each taken forwards and backwards, which cancels much of the noise (Mitchell et al.,
2022). Either way the contributions sum up exactly.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from explainer.methods.game import Attributions, Coalitions, Game, Options, Values
from mesh.errors import InvalidInput

MAX_EXACT_PLAYERS = 10
DEFAULT_ORDERS = 64


class Shapley:
    """Implements explainer.methods.game.Method. `num_samples` is the number of orders; 64 when it is 0."""

    async def attribute(self, game: Game, options: Options) -> Attributions:
        is_exact = game.num_players <= MAX_EXACT_PLAYERS and 2**game.num_players <= options.max_coalitions
        return await (_exact(game) if is_exact and options.num_samples == 0 else _sampled(game, options))


async def _exact(game: Game) -> Attributions:
    """Over all coalitions; coalition number c has player p when bit p of c is set."""
    num_players = game.num_players
    numbers = np.arange(2**num_players)
    coalitions: Coalitions = (numbers[:, None] >> np.arange(num_players) & 1).astype(np.bool_)  # [2^P, P]
    values = await game.values(coalitions)  # [2^P, R]

    weights = _join_weights(num_players)
    sizes = coalitions.sum(axis=1)
    contributions = np.empty((values.shape[1], num_players))
    for player in range(num_players):
        without = numbers[~coalitions[:, player]]
        gains = values[without | 1 << player] - values[without]  # [2^(P-1), R]
        contributions[:, player] = weights[sizes[without]] @ gains
    return Attributions(contributions, score=values[-1], base_score=values[0])


def _join_weights(num_players: int) -> Values:
    """The share of all orders in which one given player joins exactly one given coalition, by its size: [P]."""
    return np.array([1 / (num_players * math.comb(num_players - 1, size)) for size in range(num_players)])


async def _sampled(game: Game, options: Options) -> Attributions:
    orders = _draw_orders(game.num_players, options)  # [K, P]
    steps = _coalitions_along(orders)  # [K, P + 1, P]
    num_orders, num_steps, num_players = steps.shape
    unique, where = np.unique(steps.reshape(-1, num_players), axis=0, return_inverse=True)
    values = (await game.values(unique))[where.reshape(num_orders, num_steps)]  # [K, P + 1, R]

    gains = np.diff(values, axis=1)  # [K, P, R]: of the player that joined at each step
    contributions = np.zeros((num_players, values.shape[2]))
    np.add.at(contributions, orders, gains)
    return Attributions((contributions / num_orders).T, score=values[0, -1], base_score=values[0, 0])


def _draw_orders(num_players: int, options: Options) -> NDArray[np.intp]:
    """Pairs of an order and its reverse, as many as asked for (rounded up to even) or as fit: [K, P]."""
    wanted = max(1, math.ceil((options.num_samples or DEFAULT_ORDERS) / 2))
    # Each order asks for P - 1 coalitions beside the empty and the full one.
    affordable = (options.max_coalitions - 2) // (2 * max(1, num_players - 1))
    num_pairs = wanted if options.num_samples else min(wanted, affordable)
    if num_pairs < 1 or num_pairs > affordable:
        needed = 2 * max(1, num_pairs) * (num_players - 1) + 2
        raise InvalidInput(
            f"shapley over {num_players} parts with {2 * max(1, num_pairs)} orders takes {needed} evaluations; "
            f"the limit is {options.max_coalitions}"
        )
    rng = np.random.default_rng(options.seed)
    forwards = np.stack([rng.permutation(num_players) for _ in range(num_pairs)])
    return np.concatenate([forwards, forwards[:, ::-1]])


def _coalitions_along(orders: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Who is present before the first player joins, after it, and so on: [K, P + 1, P]."""
    num_players = orders.shape[1]
    rank = np.argsort(orders, axis=1)  # at which step each player joins
    return rank[:, None, :] < np.arange(num_players + 1)[None, :, None]
