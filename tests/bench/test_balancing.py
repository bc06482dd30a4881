"""The simulator of replicas behind gateways: its parts against what is obvious, whole runs against what must hold."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.balancing.figures import Figures, figures_of
from bench.balancing.grid import BASE, CHAT, CHOICES, HOT, UNIQUE
from bench.balancing.plot import bars
from bench.balancing.prefix_cache import PrefixCache
from bench.balancing.replica import INFINITE, Job, Replica, Speed
from bench.balancing.report import targets_sheet
from bench.balancing.simulation import Outcome, Setting, Simulation
from bench.balancing.workload import BLOCK_TOKENS, Prompt, Workload, mean_tokens, trace
from mesh.balancing import Request

SMALL = Setting(CHAT, replicas=6, gateways=2, requests=1500)
SPEED = Speed(prefill_tokens_per_s=1000, step_s=0.1, step_s_per_sequence=0.01, max_running=2, cache_blocks=100)


def run(setting: Setting, choice: str, seed: int = 1) -> list[Outcome]:
    return Simulation(setting, choice, seed).run()


def prompt(number: int, num_tokens: int, answer_tokens: int, blocks: tuple[int, ...] = ()) -> Prompt:
    return Prompt(number, 0.0, 0, num_tokens, answer_tokens, blocks, blocks, Request(cost=float(num_tokens)))


def ends(replica: Replica) -> dict[int, float]:
    """When each job ends, if nothing more comes."""
    found = {}
    while replica.next_s < INFINITE:
        now = replica.next_s
        job = replica.advance(now)
        if job is not None:
            found[job.prompt.number] = now
    return found


@settings(deadline=None)
@given(uses=st.lists(st.lists(st.integers(0, 9), max_size=4, unique=True), max_size=30), capacity=st.integers(1, 8))
def test_cache_holds_the_most_recently_used_blocks(uses: list[list[int]], capacity: int) -> None:
    cache, order = PrefixCache(capacity), list[int]()
    for blocks in uses:
        cache.use(blocks)
        for block in reversed(blocks):
            order = [*(other for other in order if other != block), block]
        order = order[-capacity:]

    assert len(cache) == len(order)
    assert all(cache.held([block]) == (block in order) for block in range(10))


def test_a_request_alone_takes_its_prefill_and_its_steps() -> None:
    replica = Replica("r", SPEED)
    replica.add(Job(prompt(0, num_tokens=500, answer_tokens=10)), 0.0)

    assert replica.remaining_s(0.0) == pytest.approx(0.5 + 10 * 0.12 / 2)
    assert ends(replica)[0] == pytest.approx(0.5 + 10 * 0.11)
    assert (replica.num_jobs, replica.work, replica.remaining_s(5.0)) == (0, 0.0, 0.0)


def test_sequences_decode_together_and_more_than_fit_wait() -> None:
    replica = Replica("r", SPEED)
    for number in range(3):
        replica.add(Job(prompt(number, num_tokens=1000, answer_tokens=10)), 0.0)

    # Two are read, one after the other, and decode in steps of 0.12 s. When the first ends there is room for the third,
    # and while that is read the second waits with its last token.
    assert ends(replica) == {0: pytest.approx(3.2), 1: pytest.approx(4.2), 2: pytest.approx(4.2 + 1.1)}


def test_a_faster_replica_takes_its_share_of_the_time() -> None:
    slow, fast = Replica("s", SPEED), Replica("f", SPEED, factor=2.0)
    for replica in (slow, fast):
        replica.add(Job(prompt(0, 1000, 7)), 0.0)

    assert ends(slow)[0] == pytest.approx(2 * ends(fast)[0])


def test_what_is_held_is_not_read_again_and_the_last_token_always_is() -> None:
    replica = Replica("r", SPEED)
    first, again = Job(prompt(0, 128, 1, (1, 2))), Job(prompt(1, 128, 1, (1, 2)))
    replica.add(first, 0.0)
    assert replica.will_hold(again.prompt) == 2
    ends(replica)
    replica.add(again, 10.0)
    ends(replica)

    assert (first.cached_tokens, again.cached_tokens) == (0, 127)


def test_trace_has_the_rate_and_lengths_that_it_was_asked_for() -> None:
    prompts = trace(CHAT, rate=50.0, count=5_000, gateways=3, seed=4)
    expected, answer = mean_tokens(CHAT)

    assert all(one.at_s <= other.at_s for one, other in pairwise(prompts))
    assert prompts[-1].at_s == pytest.approx(100, rel=0.15)
    assert sum(one.num_tokens for one in prompts) / 5_000 == pytest.approx(expected, rel=0.15)
    assert sum(one.answer_tokens for one in prompts) / 5_000 == pytest.approx(answer, rel=0.15)
    assert set(Counter(one.gateway for one in prompts)) == {0, 1, 2}


def test_a_conversation_goes_on_from_all_that_was_said() -> None:
    turns: dict[str, list[Prompt]] = {}
    for one in trace(CHAT, rate=50.0, count=2000, gateways=1, seed=4):
        turns.setdefault(one.hint.key, []).append(one)

    assert max(map(len, turns.values())) > 3
    for conversation in turns.values():
        for before, after in pairwise(conversation):
            assert after.blocks[: len(before.blocks_after)] == before.blocks_after
            assert list(after.hint.prefix)[: len(before.hint.prefix)] == list(before.hint.prefix)
            assert len(after.blocks) == after.num_tokens // BLOCK_TOKENS


def test_the_same_seed_gives_the_same_run_and_another_does_not() -> None:
    setting = replace(SMALL, deaths=2, requests=600)

    assert figures_of(run(setting, "prefix_affinity")) == figures_of(run(setting, "prefix_affinity"))
    assert figures_of(run(setting, "prefix_affinity")) != figures_of(run(setting, "prefix_affinity", seed=2))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_request_ends_once_also_when_replicas_die(choice: str) -> None:
    outcomes = run(replace(SMALL, deaths=5, slow_share=0.5, requests=800), choice)

    assert sorted(one.prompt.number for one in outcomes) == list(range(800))
    assert all(one.prompt.at_s < one.first_token_s < one.ended_s for one in outcomes)
    assert all(0 <= one.cached_tokens < one.prompt.num_tokens for one in outcomes)
    assert max(one.attempts for one in outcomes) > 1


def test_the_shortest_queue_is_better_than_chance() -> None:
    setting = replace(SMALL, workload=UNIQUE, utilisation=0.9, requests=2000)
    chance, ideal = figures_of(run(setting, "random")), figures_of(run(setting, "shortest queue"))

    assert ideal.first_token_p99_s < 0.7 * chance.first_token_p99_s
    assert ideal.latency_mean_s < chance.latency_mean_s


@pytest.mark.parametrize("workload", [CHAT, HOT], ids=lambda workload: workload.name)
def test_prefix_affinity_finds_what_is_held_and_slows_nobody(workload: Workload) -> None:
    setting = replace(SMALL, workload=workload, requests=2000)
    by_load, affine, perfect = (
        figures_of(run(setting, choice)) for choice in ("least_loaded", "prefix_affinity", "perfect prefix")
    )

    assert affine.hit_rate >= 0.95 * perfect.hit_rate > 1.2 * by_load.hit_rate
    assert affine.latency_p99_s <= 1.1 * by_load.latency_p99_s


def test_prefix_affinity_does_no_harm_where_nothing_is_shared() -> None:
    setting = replace(SMALL, workload=UNIQUE, utilisation=0.95, requests=2000)
    by_load, affine = (figures_of(run(setting, choice)) for choice in ("least_loaded", "prefix_affinity"))

    assert affine.latency_p99_s <= 1.1 * by_load.latency_p99_s
    assert affine.first_token_p99_s <= 1.1 * by_load.first_token_p99_s


def test_a_setting_says_its_rate() -> None:
    one = replace(BASE, replicas=1, utilisation=1.0)

    assert one.rate == pytest.approx(1 / one.speed.service_s(*mean_tokens(CHAT)))
    assert replace(one, replicas=8, slow_share=0.5).rate == pytest.approx(6 * one.rate)


def test_a_missed_target_is_said() -> None:
    def figures(p99_s: float, hit_rate: float) -> list[Figures]:
        return [Figures(1.0, 1.0, p99_s, 1.0, hit_rate)]

    results = {
        ("good", "prefix_affinity"): figures(10.0, 0.9),
        ("good", "least_loaded"): figures(10.0, 0.3),
        ("good", "perfect prefix"): figures(10.0, 0.9),
        ("bad", "prefix_affinity"): figures(12.0, 0.8),
        ("bad", "least_loaded"): figures(10.0, 0.3),
        ("bad", "perfect prefix"): figures(10.0, 0.9),
    }

    good, bad = targets_sheet(results, ["good", "bad"]).rows
    assert (good[-2:], bad[-2:]) == (("yes", "yes"), ("no", "no"))


def test_figures_leave_out_the_warm_up() -> None:
    rng = random.Random(3)
    outcomes = [
        Outcome(prompt(number, 100, 1), "r", 1.0, 100.0 if number < 20 else 2.0 + rng.random(), 50, 1)
        for number in range(100)
    ]

    assert figures_of(outcomes).latency_p99_s <= 3.0
    assert figures_of(outcomes).hit_rate == 0.5


def test_plot_is_a_picture_of_every_value() -> None:
    drawn = ElementTree.fromstring(bars("a < b", ["x", "y"], {"one": [1.0, 2.0], "two": [3.0, 99.0]}, limit=10.0))
    names = Counter(element.tag.rpartition("}")[2] for element in drawn)

    assert names["rect"] == 2 + 4
    assert "99" in [element.text for element in drawn]
