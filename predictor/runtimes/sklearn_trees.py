"""Checks the decision trees in a scikit-learn estimator: their nodes come from a file as they are.

scikit-learn walks them in Cython without looking where an index leads. What else an estimator holds is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._forest import BaseForest
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.gradient_boosting import BaseHistGradientBoosting
from sklearn.tree import BaseDecisionTree

from predictor.runtimes.tree_check import check_indices, check_tree


def check_trees(estimator: Any) -> None:
    """Raise ValueError unless every tree in `estimator` can be walked with the features that its owner takes."""
    for part in _parts(estimator):
        if isinstance(part, BaseDecisionTree) and hasattr(part, "tree_"):
            _check_cart(part.tree_, int(part.n_features_in_))
        elif isinstance(part, BaseForest | BaseGradientBoosting | IsolationForest) and hasattr(part, "estimators_"):
            for one in np.asarray(part.estimators_, dtype=object).reshape(-1):  # asked without a check of their own
                _check_cart(one.tree_, int(part.n_features_in_))
        elif isinstance(part, BaseHistGradientBoosting) and hasattr(part, "_predictors"):
            for predictor in (one for iteration in part._predictors for one in iteration):
                _check_histogram(predictor, int(part.n_features_in_))


def _check_cart(tree: Any, num_features: int) -> None:
    """A sklearn.tree._tree.Tree."""
    left, right = tree.children_left.astype(np.int64), tree.children_right.astype(np.int64)
    _check(left, right, tree.feature.astype(np.int64), left == -1, num_features)


def _check_histogram(predictor: Any, num_features: int) -> None:
    """A TreePredictor of histogram-based gradient boosting."""
    nodes = predictor.nodes
    left, right, features = (nodes[name].astype(np.int64) for name in ("left", "right", "feature_idx"))
    _check(left, right, features, nodes["is_leaf"] != 0, num_features)
    by_category = nodes["bitset_idx"][(nodes["is_leaf"] == 0) & (nodes["is_categorical"] != 0)]
    check_indices("set of categories", by_category.astype(np.int64), len(predictor.raw_left_cat_bitsets))


def _check(left: Any, right: Any, features: Any, is_leaf: Any, num_features: int) -> None:
    """Each: [num_nodes]."""
    if len(left) == 0:
        raise ValueError("a tree has no nodes")
    check_tree(np.concatenate([left[~is_leaf], right[~is_leaf]]), len(left))
    check_indices("feature", features[~is_leaf], num_features)


def _parts(whole: Any) -> Iterator[Any]:
    """`whole` and all that it holds, in attributes and containers, each once."""
    seen: set[int] = set()
    waiting = [whole]
    while waiting:
        part = waiting.pop()
        if id(part) in seen or isinstance(part, str | bytes | int | float | None):
            continue
        seen.add(id(part))
        yield part
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list | tuple | set):
            waiting += part
        elif isinstance(part, np.ndarray):
            waiting += part.reshape(-1).tolist() if part.dtype == object else []
        else:
            waiting += getattr(part, "__dict__", {}).values()
