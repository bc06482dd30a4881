"""How a request's guesses pay for themselves: who is right may guess more, who is wrong soon stops."""

from __future__ import annotations

from predictor.llm.drafter import FIXED_ROWS, MAX_BALANCE, START_BALANCE, STEP_INCOME, Drafter

REPEATS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]


def test_who_is_right_guesses_as_far_as_it_may() -> None:
    drafter = Drafter()

    drafts = []
    for _ in range(4):
        drafts.append(drafter.draft(REPEATS, 7))
        drafter.learn(len(drafts[-1]), len(drafts[-1]), num_sequences=1)

    assert drafts == [(3, 4), (3, 4, 5), (3, 4, 5, 6, 7, 8, 9), (3, 4, 5, 6, 7, 8, 9)]
    assert drafter.balance == MAX_BALANCE


def test_who_is_wrong_stops_and_tries_again_now_and_then() -> None:
    drafter, num_steps = Drafter(), 1600

    sizes = []
    for _ in range(num_steps):
        sizes.append(len(drafter.draft(REPEATS, 7)))
        drafter.learn(sizes[-1], 0, num_sequences=1)

    assert sizes[:3] == [2, 1, 0]
    assert sum(sizes) <= START_BALANCE + num_steps * STEP_INCOME
    assert sum(sizes[-160:]) >= 9, "a text may begin to repeat itself"
    assert sum(sizes) / (1 + FIXED_ROWS) < 0.02 * num_steps, "what is lost, in steps of one token"


def test_a_wrong_guess_after_many_right_ones_is_forgiven_but_not_for_ever() -> None:
    drafter = Drafter()
    drafter.balance = MAX_BALANCE

    num_drafted = 0
    while draft := drafter.draft(REPEATS, 7):
        drafter.learn(len(draft), 0, num_sequences=1)
        num_drafted += len(draft)

    assert MAX_BALANCE - 1 < num_drafted < MAX_BALANCE + 1


def test_an_accepted_token_is_worth_less_in_company() -> None:
    balances = []
    for num_sequences in (1, 5, 100):
        drafter = Drafter()
        drafter.learn(2, 1, num_sequences)
        balances.append(drafter.balance)

    assert balances == [START_BALANCE + 4.0, START_BALANCE, START_BALANCE - 0.95]
