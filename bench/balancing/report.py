"""The results of a grid as tables, and the two targets held against each setting."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from bench.balancing.figures import Figures
from bench.balancing.grid import Results
from bench.sheet import NOTHING, Sheet, cell
from bench.spread import spread_of

LEAST_HIT_RATE = 0.95  # of perfect prefix knowledge's
GREATEST_P99 = 1.10  # of least loaded's


def sheets(results: Results) -> Iterator[Sheet]:
    """All tables; cells are the median of the seeds, with least and greatest."""
    settings = tuple(dict.fromkeys(setting for setting, _ in results))
    choices = tuple(dict.fromkeys(choice for _, choice in results))
    for title, attribute, is_percent in (
        ("Latency p99, s", "latency_p99_s", False),
        ("Latency mean, s", "latency_mean_s", False),
        ("First token p99, s", "first_token_p99_s", False),
        ("Hit rate: prompt tokens that were cached where they went", "hit_rate", True),
    ):
        rows = [
            (
                setting,
                *(
                    cell(spread_of(getattr(one, attribute) for one in results[setting, choice]), 2, percent=is_percent)
                    for choice in choices
                ),
            )
            for setting in settings
        ]
        yield Sheet(title, ("setting", *choices), tuple(rows))
    if {"prefix_affinity", "perfect prefix", "least_loaded"} <= set(choices):
        yield targets_sheet(results, settings)


def pick_sheet(pick_us: dict[str, tuple[float, float]], hash_us: tuple[float, float]) -> Sheet:
    """CPU time of a choice: median and greatest of ten batches, in µs."""
    rows = [(name, f"{median:.1f}", f"{greatest:.1f}") for name, (median, greatest) in pick_us.items()]
    rows.append(("hashing a prompt of 4,000 characters", f"{hash_us[0]:.1f}", f"{hash_us[1]:.1f}"))
    return Sheet(
        "CPU time of one pick() among 256 replicas with a full index, µs", ("policy", "median", "greatest"), tuple(rows)
    )


def targets_sheet(results: Results, settings: Sequence[str]) -> Sheet:
    """Prefix affinity's hit rate over that of perfect knowledge, its p99 over that of least loaded; the worst seed."""
    rows = []
    for setting in settings:
        affinity = results[setting, "prefix_affinity"]
        hits = [_ratio(a.hit_rate, b.hit_rate) for a, b in _pairs(affinity, results[setting, "perfect prefix"])]
        p99s = [a.latency_p99_s / b.latency_p99_s for a, b in _pairs(affinity, results[setting, "least_loaded"])]
        is_met = (min(hits) >= LEAST_HIT_RATE, max(p99s) <= GREATEST_P99)
        shares = (
            NOTHING if not any(one.hit_rate for one in affinity) else f"{statistics.median(hits):.3f} ({min(hits):.3f})"
        )
        rows.append(
            (
                setting,
                shares,
                f"{statistics.median(p99s):.3f} ({max(p99s):.3f})",
                *("yes" if met else "no" for met in is_met),
            )
        )
    columns = ("setting", "hit rate / perfect (worst)", "p99 / least loaded (worst)", "hits ≥ 0.95", "p99 ≤ 1.10")
    return Sheet("Targets of prefix affinity", columns, tuple(rows))


def _pairs(one: Sequence[Figures], other: Sequence[Figures]) -> Iterator[tuple[Figures, Figures]]:
    return zip(one, other, strict=True)  # of the same seed, so of the same requests


def _ratio(value: float, ideal: float) -> float:
    return value / ideal if ideal else 1.0
