"""Indices of a tree are checked before anything walks along them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.runtimes.tree_check import check_indices, check_lengths, check_tree, indices


def walk_ends(children: Sequence[tuple[int, int]]) -> bool:
    """The obvious way: node i's children are children[i], or none when i has no entry. No node may come twice."""
    seen, waiting = set(), [0]
    while waiting:
        node = waiting.pop()
        if node in seen:
            return False
        seen.add(node)
        if node < len(children):
            waiting += children[node]
    return True


@given(st.integers(1, 6), st.data())
def test_what_passes_can_be_walked(num_inner: int, data: st.DataObject) -> None:
    num_nodes = 2 * num_inner + 1
    node = st.integers(0, num_nodes - 1)
    children = data.draw(st.lists(st.tuples(node, node), min_size=num_inner, max_size=num_inner))

    try:
        check_tree(np.array(children).reshape(-1), num_nodes)
    except ValueError:
        return

    assert walk_ends(children)


def test_a_tree_passes_and_so_does_a_leaf() -> None:
    check_tree(np.array([1, 2, 3, 4]), 5)
    check_tree(np.array([], dtype=np.int64), 1)


@pytest.mark.parametrize(
    ("children", "sentence"),
    [
        ([1, 5], "child 5 is not one of 5"),
        ([1, -1], "child -1 is not one of 5"),
        ([1, 0], "node 0 has a parent too many"),
        ([1, 2, 2, 3], "node 2 has a parent too many"),
    ],
)
def test_what_is_no_tree_is_named(children: list[int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_tree(np.array(children), 5)


def test_lengths_and_indices_are_named() -> None:
    with pytest.raises(ValueError, match="threshold has 3 entries, not 4"):
        check_lengths(left=(4, 4), threshold=(3, 4))
    with pytest.raises(ValueError, match="feature 9 is not one of 4"):
        check_indices("feature", np.array([0, 3, 9]), 4)
    check_indices("feature", np.array([], dtype=np.int64), 0)


@pytest.mark.parametrize("values", [[1.5], ["1"], [None], [[1], [2, 3]]])
def test_what_is_no_index_is_refused(values: list[object]) -> None:
    with pytest.raises(ValueError):
        indices(values)


def test_whole_numbers_are_indices() -> None:
    assert indices([1, 2]).tolist() == [1, 2]
    assert indices([]).tolist() == []
