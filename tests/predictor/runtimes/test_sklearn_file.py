"""Which files of scikit-learn are read, and how far they are trusted; what they answer is test_sklearn.py's."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    VotingClassifier,
)
from sklearn.linear_model import TweedieRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mesh.errors import CorruptArtifact, PermissionDenied
from predictor.runtimes.sklearn_file import read_estimator
from tests.predictor.runtimes.trained import FEATURES, TARGETS


@pytest.mark.parametrize(
    "estimator",
    [
        GradientBoostingClassifier(n_estimators=2),
        HistGradientBoostingRegressor(max_iter=2),
        KNeighborsClassifier(algorithm="kd_tree"),
        VotingClassifier([("a", DecisionTreeClassifier()), ("b", AdaBoostClassifier(n_estimators=2))]),
        TweedieRegressor(),
        MLPClassifier(3, max_iter=2000, tol=0.1),
        StandardScaler(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_common_estimators_are_trusted(tmp_path: Path, estimator: object) -> None:
    skops.io.dump(estimator.fit(FEATURES, TARGETS), tmp_path / "model.skops")  # type: ignore[attr-defined]

    read, size_bytes = read_estimator(tmp_path / "model.skops", may_run_code=False)

    assert type(read) is type(estimator)
    assert size_bytes > 0


def test_what_is_not_fitted_is_refused(tmp_path: Path) -> None:
    skops.io.dump(StandardScaler(), tmp_path / "model.skops")

    with pytest.raises(CorruptArtifact, match="holds a StandardScaler, which is no fitted estimator"):
        read_estimator(tmp_path / "model.skops", may_run_code=False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"there is no file model\.skops"):
        read_estimator(tmp_path / "model.skops", may_run_code=False)


def test_trust_is_asked_for_before_a_pickle_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    joblib.dump(StandardScaler().fit(FEATURES), path)

    with pytest.raises(PermissionDenied, match="save the model with skops"):
        read_estimator(path, may_run_code=False)
    with pytest.raises(PermissionDenied):
        read_estimator(tmp_path / "there_is_none.pkl", may_run_code=False)

    read, size_bytes = read_estimator(path, may_run_code=True)
    np.testing.assert_allclose(read.mean_, FEATURES.mean(axis=0))
    assert size_bytes == path.stat().st_size
