"""Decides how many tokens to draft for one sequence, from what became of its drafts so far.

The unit is the cost of one more token in a step. A step costs about as much as FIXED_ROWS of them before its first, and
an accepted token saves its sequence's share of that. Each sequence has a balance in this unit: a draft is paid for when
it is run, an accepted token brings in what it saves. Nobody spends more than there is, so a sequence whose text does
not repeat itself loses the few tokens of its start and then a small share of its steps, and one that repeats itself
soon drafts as far as it may. The values were chosen on recorded outputs (docs/log.md). Knows neither steps nor blocks.
"""

from __future__ import annotations

from predictor.llm.prompt_lookup import PromptLookup

# Native kernels, SmolLM2-135M, context 256, up to 8 tokens: a step costs 4.7 ms and 0.95 ms a token (docs/log.md).
FIXED_ROWS = 5.0
START_BALANCE = 3.0
MAX_BALANCE = 32.0
# What a step brings in: a sixteenth of a row, where a step costs six, is 1 % of the time.
STEP_INCOME = 1 / 16
# Balance for each token that may be drafted beyond the length of a match.
TRUST_PRICE = 4.0


class Drafter:
    """Of one sequence. A draft never changes what is generated, only how fast."""

    def __init__(self) -> None:
        self.balance = START_BALANCE
        self._lookup = PromptLookup()

    def draft(self, token_ids: list[int], max_tokens: int) -> tuple[int, ...]:
        """Guess the tokens behind `token_ids`, at most `max_tokens`. Once for each step that has room for a draft."""
        self.balance = min(self.balance + STEP_INCOME, MAX_BALANCE)
        return self._lookup.propose(token_ids, min(max_tokens, int(self.balance)), int(self.balance / TRUST_PRICE))

    def learn(self, num_drafted: int, num_accepted: int, num_sequences: int) -> None:
        """Of `num_drafted` tokens so many were right, in a step of `num_sequences` that share its fixed cost."""
        saved = num_accepted * (1.0 + FIXED_ROWS / num_sequences)
        self.balance = min(self.balance - num_drafted + saved, MAX_BALANCE)
