"""Trees whose nodes a file has wrong are found before scikit-learn walks them, wherever an estimator holds them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import (
    BaggingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier

from predictor.runtimes.sklearn_trees import check_trees
from tests.predictor.runtimes.trained import FEATURES, TARGETS


def changed(tree: Any, name: str, value: int) -> Any:
    """A copy of a Tree, one of whose nodes is another."""
    make, arguments, state = tree.__reduce__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][name][0] = value
    copy = make(*arguments)
    copy.__setstate__(state)
    return copy


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeRegressor(),
        GradientBoostingRegressor(n_estimators=3),
        make_pipeline(StandardScaler(), RandomForestClassifier(3)),
        make_pipeline(KBinsDiscretizer(5, encode="onehot-dense"), HistGradientBoostingClassifier(max_iter=2)),
        IsolationForest(n_estimators=2, max_features=2),
        BaggingClassifier(DecisionTreeClassifier(), 2, max_features=3),
        VotingClassifier([("a", ExtraTreeClassifier()), ("b", HistGradientBoostingClassifier(max_iter=2))]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_sound_trees_pass(estimator: Any) -> None:
    check_trees(estimator.fit(FEATURES, TARGETS))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("left_child", 0, "node 0 has a parent too many"),
        ("right_child", 10_000, "child 10000 is not one of"),
        ("feature", 4, "feature 4 is not one of 4"),
        ("feature", -2, "feature -2 is not one of 4"),
    ],
)
def test_a_node_that_leads_nowhere_is_found(name: str, value: int, sentence: str) -> None:
    model = DecisionTreeRegressor().fit(FEATURES, TARGETS)
    model.tree_ = changed(model.tree_, name, value)

    with pytest.raises(ValueError, match=sentence):
        check_trees(make_pipeline(StandardScaler(), model))


def test_a_forest_s_own_features_are_the_limit() -> None:
    forest = RandomForestClassifier(3, random_state=0).fit(FEATURES, TARGETS)
    forest.estimators_[1].tree_ = changed(forest.estimators_[1].tree_, "feature", 4)
    forest.estimators_[1].n_features_in_ = 1000

    with pytest.raises(ValueError, match="feature 4 is not one of 4"):
        check_trees(forest)


def make_circle(nodes: Any) -> None:
    nodes["left"][0] = 0


def lose_feature(nodes: Any) -> None:
    nodes["feature_idx"][0] = 77


def want_category(nodes: Any) -> None:
    nodes["is_categorical"][0], nodes["bitset_idx"][0] = 1, 5


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [(make_circle, "parent too many"), (lose_feature, "feature 77"), (want_category, "set of categories 5")],
)
def test_nodes_of_histogram_gradient_boosting_are_checked(spoil: Callable[[Any], None], sentence: str) -> None:
    model = HistGradientBoostingClassifier(max_iter=1).fit(FEATURES, TARGETS)
    predictor = model._predictors[0][0]
    predictor.nodes = np.array(predictor.nodes)
    spoil(predictor.nodes)

    with pytest.raises(ValueError, match=sentence):
        check_trees(model)
