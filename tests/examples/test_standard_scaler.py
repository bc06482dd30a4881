"""The example class does what it says, without a server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.standard_scaler import BadInput, StandardScaler, write


def test_rows_like_those_it_was_made_from_come_out_standardized(tmp_path: Path) -> None:
    write(tmp_path)
    scaler = StandardScaler()
    scaler.load(str(tmp_path))
    rows = np.random.default_rng(0).normal([10, -2, 0.5], [3, 1, 0.1], (1000, 3)).astype(np.float32)

    scaled = scaler.infer({"rows": rows})["scaled"]

    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-4)
    assert (tmp_path / "model.py").read_text().count("class StandardScaler") == 1


def test_what_is_no_number_is_bad_input(tmp_path: Path) -> None:
    write(tmp_path)
    scaler = StandardScaler()
    scaler.load(str(tmp_path))

    with pytest.raises(BadInput, match="finite"):
        scaler.infer({"rows": np.full((1, 3), np.inf, np.float32)})
