"""The one view that attribution methods have of a model: a cooperative game.

Features of a row, or words of a prompt, are players. A coalition is the set of players that are present; its value is
the model's score of the answer when only they are (the others at their baseline, or left out). So a method knows
neither tables nor texts, nor who computes the values. The view is that of Shapley (1953), by way of Lundberg & Lee
(2017).

Letters: C coalitions, P players, R subjects (rows of a table that are explained together; 1 for a text).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Coalitions = NDArray[np.bool_]  # [C, P]
Values = NDArray[np.float64]


class Game(Protocol):
    """What is played. A call of `values` may cost many model evaluations: ask for all coalitions at once."""

    @property
    def num_players(self) -> int: ...

    async def values(self, coalitions: Coalitions) -> Values:
        """The value of each coalition for each subject: [C, R]."""
        ...


@dataclass(frozen=True, slots=True)
class Options:
    """What a method may be told.

    seed: of all that it draws. max_coalitions: how many it may ask for, in all. num_samples: for methods that sample,
    how many draws; 0 leaves it to the method.
    """

    seed: int
    max_coalitions: int
    num_samples: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Attributions:
    """What the players contribute, and between which scores.

    contributions: [R, P]. score: with all players, [R]. base_score: without any, [R]; None when the method never looks.
    """

    contributions: Values
    score: Values
    base_score: Values | None


class Method(Protocol):
    """An attribution method. Deterministic: the same game and options give the same attributions."""

    async def attribute(self, game: Game, options: Options) -> Attributions:
        """Raises InvalidInput when the game is too large for the options, and what `game.values` raises."""
        ...
