"""Is it a tree? Checks the arrays of a decision tree from a file, before anything walks along them.

XGBoost and LightGBM follow the indices in a model file without looking where they lead: a wrong one reads foreign
memory, a circle is followed for ever. Knows no library's format; raises ValueError that says what is wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def check_tree(children: Indices, num_nodes: int) -> None:
    """`children`: [k], all children of inner nodes; node 0 is the root.

    When no node is a child twice and the root is none, no walk from the root comes to a node again.
    """
    if children.size == 0:
        return
    check_indices("child", children, num_nodes)
    num_parents = np.bincount(children, minlength=num_nodes)  # [num_nodes]
    if num_parents[0] or num_parents.max() > 1:
        raise ValueError(f"node {int(num_parents.argmax()) if not num_parents[0] else 0} has a parent too many")


def check_indices(what: str, indices: Indices, limit: int) -> None:
    """Every one of `indices` must be 0..`limit`-1."""
    if indices.size and (indices.min() < 0 or indices.max() >= limit):
        wrong = indices[(indices < 0) | (indices >= limit)][0]
        raise ValueError(f"{what} {wrong} is not one of {limit}")


def check_lengths(**lengths: tuple[int, int]) -> None:
    """Each is (of the array by that name, what it must be)."""
    for name, (given, wanted) in lengths.items():
        if given != wanted:
            raise ValueError(f"{name} has {given} entries, not {wanted}")


def indices(values: Any) -> Indices:
    """A list of whole numbers. Raises ValueError for anything else, OverflowError for what 64 bits do not hold."""
    array = np.asarray(values)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError("an index is no whole number")
    return array.astype(np.int64).reshape(-1)
