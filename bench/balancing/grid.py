"""The settings that policies are compared on: a base, and each of its sides varied alone; and the runs of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import replace

from bench.balancing.figures import Figures, figures_of
from bench.balancing.ideals import IDEALS
from bench.balancing.simulation import Setting, Simulation
from bench.balancing.workload import Workload
from mesh.balancing import POLICIES

CHAT = Workload("chat")
# Nothing in common: affinity cannot help, and must not harm.
UNIQUE = Workload("unique", num_shared=0, turns=1.0)
# Long instructions with a short question each, as of a service behind an API.
INSTRUCTIONS = Workload("instructions", turns=1.0, first_tokens=2000)
# One text begins six of ten conversations: more than one replica can take.
HOT = Workload("hot", hot_share=0.6, turns=2.0, first_tokens=1500)

BASE = Setting(CHAT)
SETTINGS: dict[str, Setting] = {
    "base": BASE,
    "2 replicas": replace(BASE, replicas=2),
    "64 replicas": replace(BASE, replicas=64, requests=15_000),
    "256 replicas": replace(BASE, replicas=256, requests=25_000),
    "1 gateway": replace(BASE, gateways=1),
    "4 gateways": replace(BASE, gateways=4),
    "60 % utilisation": replace(BASE, utilisation=0.6),
    "95 % utilisation": replace(BASE, utilisation=0.95),
    "a third is half as fast": replace(BASE, slow_share=1 / 3),
    "8 deaths, 8 joins": replace(BASE, deaths=8),
    "instructions": replace(BASE, workload=INSTRUCTIONS),
    "one hot text": replace(BASE, workload=HOT),
    "one hot text, 95 %": replace(BASE, workload=HOT, utilisation=0.95),
    "nothing shared": replace(BASE, workload=UNIQUE),
    "nothing shared, 95 %": replace(BASE, workload=UNIQUE, utilisation=0.95),
}
CHOICES: tuple[str, ...] = (*POLICIES, *IDEALS)

# Of setting and choice: the figures of each seed.
Results = dict[tuple[str, str], list[Figures]]


def run_grid(
    names: Sequence[str], choices: Sequence[str], seeds: int, *, share: float, processes: int, done: Callable[[], None]
) -> Results:
    """share: of each setting's requests. done: called after each run."""
    jobs = [(name, choice, seed, share) for name in names for choice in choices for seed in range(seeds)]
    results: Results = {}
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for (name, choice, _, _), figures in zip(jobs, pool.imap(_run, jobs), strict=True):
            results.setdefault((name, choice), []).append(figures)
            done()
    return results


def _run(job: tuple[str, str, int, float]) -> Figures:
    name, choice, seed, share = job
    setting = SETTINGS[name]
    setting = replace(setting, requests=max(100, int(setting.requests * share)))
    return figures_of(Simulation(setting, choice, seed).run())
