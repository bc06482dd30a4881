"""Arrays of several requests joined along their first dimension, and the outputs taken apart again.

Knows arrays, not requests: what may be joined is decided in `predictor.signature`, when in `predictor.batching`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predictor.runtimes.base import Arrays


def join_rows(requests: Sequence[Arrays]) -> Arrays:
    """One array of each name, [sum of rows, …], copied together. All have the same names and trailing shapes."""
    return {name: np.concatenate([arrays[name] for arrays in requests]) for name in requests[0]}


def split_rows(outputs: Arrays, num_rows: Sequence[int]) -> list[Arrays] | None:
    """Each request's part of `outputs`, as views. None when an output has not one row for each row that went in."""
    total = sum(num_rows)
    if any(array.shape[:1] != (total,) for array in outputs.values()):
        return None
    parts: list[Arrays] = []
    start = 0
    for rows in num_rows:
        stop = start + rows
        parts.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return parts
