"""Rows joined and split again: nothing copied twice, nothing mixed up, and outputs that are not rows are noticed."""

from __future__ import annotations

import numpy as np
import pytest

from predictor.batching_rows import join_rows, split_rows


def test_joined_rows_come_apart_as_they_were() -> None:
    requests = [
        {"x": np.arange(2 * rows).reshape(rows, 2), "text": np.array([b"t"] * rows, dtype=object)} for rows in (1, 3, 0)
    ]

    joined = join_rows(requests)
    parts = split_rows(joined, [1, 3, 0])

    assert joined["x"].shape == (4, 2)
    assert joined["text"].dtype == object
    assert parts is not None
    for part, request in zip(parts, requests, strict=True):
        np.testing.assert_array_equal(part["x"], request["x"])
        assert part["text"].tolist() == request["text"].tolist()


def test_parts_are_views() -> None:
    outputs = {"y": np.zeros((3, 2))}

    parts = split_rows(outputs, [2, 1])

    assert parts is not None
    assert all(np.shares_memory(part["y"], outputs["y"]) for part in parts)


@pytest.mark.parametrize("shape", [(), (2,), (4, 3)])
def test_an_output_without_a_row_for_each_row_cannot_be_split(shape: tuple[int, ...]) -> None:
    assert split_rows({"good": np.zeros((3, 2)), "bad": np.zeros(shape)}, [2, 1]) is None
