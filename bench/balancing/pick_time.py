"""The CPU time of a choice, with as many replicas and as full an index as there may be; and of hashing a prompt.

The replicas are the pool's own endpoints, each with a report of its load, in a new list for every call.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from bench.balancing.gateway import NO_CHANNEL
from mesh.balancing import POLICIES, Request, make_policy
from mesh.balancing.prefix import hash_text
from mesh.balancing.prefix_index import MAX_BLOCKS
from mesh.endpoints import Endpoint
from mesh.load_report import LoadReport
from mesh.v1.registry_pb2 import Replica

BATCH = 500


def pick_us(policy_name: str, num_replicas: int = 256, num_blocks: int = 25) -> tuple[float, float]:
    """Median and greatest mean of ten batches of picks, in µs; half the prompts are known, half are new.

    num_blocks: of a prompt; 25 are 4,000 tokens. Half of them every prompt shares with a hundredth of the others.
    """
    rng = random.Random(7)
    policy = make_policy(policy_name, rng)
    endpoints = [Endpoint(Replica(id=f"predictor-{number}"), NO_CHANNEL) for number in range(num_replicas)]
    for endpoint in endpoints:
        endpoint.dispatched_work = rng.uniform(20_000, 40_000)
        endpoint.reported(LoadReport(work=endpoint.dispatched_work + rng.uniform(0, 40_000)), now=0.0)
    shared = [[rng.getrandbits(64) for _ in range(num_blocks // 2)] for _ in range(100)]

    def prompt() -> Request:
        own = [rng.getrandbits(64) for _ in range(num_blocks - num_blocks // 2)]
        return Request([*rng.choice(shared), *own], key=str(rng.random()), cost=4000.0)

    known = [prompt() for _ in range(2 * MAX_BLOCKS // num_blocks)]  # enough to fill the index
    for request in known:
        policy.pick(list(endpoints), request)

    def batch(_: int) -> float:
        requests = [prompt() if number % 2 else rng.choice(known[-1000:]) for number in range(BATCH)]
        start = time.thread_time()
        for request in requests:
            policy.pick(list(endpoints), request)
        return (time.thread_time() - start) / BATCH

    return _median_and_greatest_us(batch)


def hash_us(num_characters: int = 4000) -> tuple[float, float]:
    """Median and greatest mean of ten batches of hashing a prompt, in µs."""
    text = "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz ", k=num_characters))

    def batch(_: int) -> float:
        start = time.thread_time()
        for _ in range(BATCH):
            hash_text([text], "v1")
        return (time.thread_time() - start) / BATCH

    return _median_and_greatest_us(batch)


def all_picks_us() -> dict[str, tuple[float, float]]:
    """`pick_us` of every policy."""
    return {name: pick_us(name) for name in POLICIES}


def _median_and_greatest_us(batch: Callable[[int], float]) -> tuple[float, float]:
    means = [batch(number) * 1e6 for number in range(10)]
    return statistics.median(means), max(means)
