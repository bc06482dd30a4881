"""Random arrivals, forks, aborts, preemptions and cache hits; `checked_engine` says what must hold after every step.

By hypothesis, which finds short ways to break things, and by plain random traffic over many steps. A hundred thousand
steps of each take about a minute; a tenth of that runs with the quick tests.
"""

from __future__ import annotations

import os
import random
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.predictor.llm.checked_engine import PLAIN, CheckedEngine, Variant
from tests.predictor.llm.hash_model import ECHO_ID

# A night can afford more.
NUM_STEPS = int(os.environ.get("ENGINE_STEPS", "100000"))

# Prompts from few beginnings, so that prefixes are often shared; after some of them the model mostly repeats itself.
BEGINNINGS = [*(tuple(range(n)) for n in (0, 3, 4, 8, 13)), (ECHO_ID,), (ECHO_ID, 0, 1, 2, 0, 1)]
PROMPTS = st.builds(
    lambda beginning, end: (*beginning, *end),
    st.sampled_from(BEGINNINGS),
    st.lists(st.integers(0, 2), min_size=1, max_size=12).map(tuple),
)
SALTS = st.sampled_from(["", "", "tenant"])
PRIORITIES = st.sampled_from([0, 0, 0, 1, -1])
VARIANTS = [
    *(PLAIN, PLAIN, Variant(n=2), Variant(n=4, prompt_logprobs=True), Variant(prompt_logprobs=True)),
    *(Variant(penalized=True), Variant(guide="3 7"), Variant(n=3, penalized=True, guide="5 20")),
]


class EngineMachine(RuleBasedStateMachine):
    num_steps: ClassVar[int] = 0  # of the engine, over all examples

    @initialize(
        num_blocks=st.integers(8, 20),
        max_num_seqs=st.integers(2, 5),
        spare_budget=st.integers(0, 12),
        caching=st.booleans(),
        num_draft_tokens=st.integers(0, 9),
        max_num_tokens_with_drafts=st.integers(0, 20),
    )
    def start(
        self,
        num_blocks: int,
        max_num_seqs: int,
        spare_budget: int,
        caching: bool,
        num_draft_tokens: int,
        max_num_tokens_with_drafts: int,
    ) -> None:
        self.engine = CheckedEngine(
            num_blocks,
            max_num_seqs,
            max_num_seqs + spare_budget,
            caching,
            num_draft_tokens,
            max_num_tokens_with_drafts,
        )

    @rule(
        prompt=PROMPTS,
        max_tokens=st.integers(1, 40),
        seed=st.integers(0, 3),
        num_sent=st.integers(0, 6),
        salt=SALTS,
        priority=PRIORITIES,
        num_alike=st.integers(1, 3),
        variant=st.sampled_from(VARIANTS),
    )
    def generate(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        seed: int,
        num_sent: int,
        salt: str,
        priority: int,
        num_alike: int,
        variant: Variant,
    ) -> None:
        for _ in range(num_alike):
            self.engine.generate(prompt, max_tokens, seed, num_sent, salt, priority, variant)

    @rule(prefix=PROMPTS, scored=PROMPTS, salt=SALTS, priority=PRIORITIES)
    def score(self, prefix: tuple[int, ...], scored: tuple[int, ...], salt: str, priority: int) -> None:
        self.engine.score(prefix, scored, salt, priority)

    @rule(which=st.integers(0, 1000))
    def abort(self, which: int) -> None:
        if self.engine.requests:
            self.engine.abort(f"r{which % len(self.engine.requests)}")

    @rule(num_steps=st.integers(1, 10))
    def steps(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.engine.step()

    @rule(which=st.integers(0, 10))
    def step_with_an_abort_in_the_middle(self, which: int) -> None:
        self.engine.step_with_an_abort_in_the_middle(which)

    @rule()
    def step_that_fails(self) -> None:
        self.engine.step_that_fails()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.finish()
            stats = self.engine.engine.engine.stats()
            EngineMachine.num_steps += stats.num_steps
            event(f"preempted: {stats.num_preemptions > 0}")
            event(f"found a cached prefix: {stats.num_prefix_hits > 0}")
            event(f"drafted right: {self.engine.num_accepted > 0}; wrong: {self.engine.num_rejected > 0}")


def run_machine(num_examples: int) -> None:
    run_state_machine_as_test(
        EngineMachine,
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def test_what_hypothesis_thinks_of() -> None:
    run_machine(100)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_hypothesis_thinks_of_in_many_steps() -> None:
    before = EngineMachine.num_steps
    while EngineMachine.num_steps - before < NUM_STEPS:
        run_machine(500)


@pytest.mark.parametrize("seed", range(4))
def test_heavy_traffic(seed: int) -> None:
    run_traffic(seed, 2500)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(4))
def test_heavy_traffic_of_many_steps(seed: int) -> None:
    run_traffic(seed, NUM_STEPS // 4)


def run_traffic(seed: int, num_steps_wanted: int) -> None:
    rng = random.Random(seed)
    # A small budget makes for long prefills, during which the others grow.
    engine = CheckedEngine(num_blocks=24, max_num_seqs=6, max_num_batched_tokens=7 + 3 * seed, caching=seed != 3)
    prompts = [(*rng.choice(BEGINNINGS), *(rng.randrange(3) for _ in range(rng.randint(1, 12)))) for _ in range(40)]
    num_steps = 0
    while num_steps < num_steps_wanted:
        prompt = rng.choice(prompts)
        salt, priority = rng.choice(["", "", "tenant"]), rng.choice([0, 0, 0, 1, -1])
        kind = rng.random()
        if kind < 0.12:
            max_tokens, variant = rng.randint(1, 50), rng.choice(VARIANTS)
            engine.generate(prompt, max_tokens, rng.randrange(4), rng.randrange(6), salt, priority, variant)
        elif kind < 0.18:
            engine.score(prompt, tuple(rng.randrange(3) for _ in range(rng.randint(1, 20))), salt, priority)
        elif kind < 0.20 and engine.requests:
            engine.abort(f"r{rng.randrange(len(engine.requests))}")
        elif kind < 0.21:
            engine.step_with_an_abort_in_the_middle(rng.randrange(6))
            num_steps += 1
        elif kind < 0.213:
            engine.step_that_fails()
        else:
            engine.step()
            num_steps += 1
    engine.finish()

    stats = engine.engine.engine.stats()
    assert stats.num_preemptions > 10
    assert engine.num_accepted > 100
    assert engine.num_rejected > 100
    assert (stats.num_prefix_hits > 0) == (seed != 3)
