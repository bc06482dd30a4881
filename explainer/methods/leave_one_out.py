"""Leave one out: what a player contributes is how far the score falls when only it is missing.

P + 1 coalitions, exact for models in which players do not interact; of players that stand for one another it sees
neither. Called "occlusion" for images (Zeiler & Fergus, 2014).
"""

from __future__ import annotations

import numpy as np

from explainer.methods.game import Attributions, Game, Options
from mesh.errors import InvalidInput


class LeaveOneOut:
    """Implements explainer.methods.game.Method."""

    async def attribute(self, game: Game, options: Options) -> Attributions:
        num_players = game.num_players
        if num_players + 1 > options.max_coalitions:
            raise InvalidInput(
                f"leave_one_out over {num_players} parts takes {num_players + 1} evaluations; "
                f"the limit is {options.max_coalitions}"
            )
        coalitions = np.ones((num_players + 1, num_players), dtype=np.bool_)
        np.fill_diagonal(coalitions[1:], False)
        values = await game.values(coalitions)  # [1 + P, R]
        score = values[0]
        return Attributions(contributions=(score - values[1:]).T, score=score, base_score=None)
