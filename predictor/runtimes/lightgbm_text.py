"""LightGBM's text format, read strictly and written anew: only what is checked here reaches the library's parser.

That parser goes by sizes and indices of the file unchecked, and a wrong one may show only later. So a model is built up
from what predictions need: the header, and of each tree the arrays that lead to a leaf. The format:
src/boosting/gbdt_model_text.cpp and src/io/tree.cpp of LightGBM. Every fault is a ValueError that says what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.runtimes.tree_check import Indices, check_indices, check_lengths, check_tree

MAX_CLASSES = 1 << 16

BINARY, MULTICLASS = "binary", ("multiclass", "multiclassova")

_OF_NUMBERS = re.compile(r"[-+0-9.eE naif]*")  # "nan" and "inf" among them; numpy would take 1_000 as well
_OBJECTIVE = re.compile(r"[a-z_0-9]+(?: [a-z_]+(?::[-+0-9.eE]+)?)*")


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the trees. num_classes: 0 unless the model tells classes apart; objective: "" for none."""

    objective: str
    num_classes: int
    trees_per_iteration: int
    feature_names: tuple[str, ...]
    is_averaged: bool
    parameters: str  # the objective with its parameters, as in the file

    @classmethod
    def of(cls, text: str) -> Header:
        """Its parts must agree: the library would write past the end of its answers."""
        fields = _fields(text)
        parameters = fields.get("objective", "").strip()
        if parameters and not _OBJECTIVE.fullmatch(parameters):
            raise ValueError(f"objective {parameters[:100]!a} is none")
        objective = parameters.partition(" ")[0]
        num_trees, num_classes = _whole(fields, "num_tree_per_iteration"), _whole(fields, "num_class")
        if not 1 <= num_classes <= MAX_CLASSES or num_trees != num_classes:
            raise ValueError(f"{num_classes} classes and {num_trees} trees an iteration do not go together")
        of_objective = [word.partition(":")[2] for word in parameters.split() if word.startswith("num_class:")]
        fits = of_objective == [str(num_classes)] if objective in MULTICLASS else not of_objective
        if not fits or (objective and objective not in MULTICLASS and num_classes != 1):
            raise ValueError(f"objective {parameters[:100]!a} does not go with {num_classes} classes")
        names = tuple(fields.get("feature_names", "").split())
        check_lengths(feature_names=(len(names), _whole(fields, "max_feature_idx") + 1))
        if not names:
            raise ValueError("the model has no features")
        told_apart = {BINARY: 2}.get(objective, num_classes if objective in MULTICLASS else 0)
        return cls(objective, told_apart, num_trees, names, "average_output" in text.splitlines(), parameters)

    def lines(self) -> list[str]:
        """As the library writes it, without what only training needs."""
        return [
            "tree",
            "version=v4",
            f"num_class={self.trees_per_iteration}",
            f"num_tree_per_iteration={self.trees_per_iteration}",
            "label_index=0",
            f"max_feature_idx={len(self.feature_names) - 1}",
            *([f"objective={self.parameters}"] if self.parameters else []),
            *(["average_output"] if self.is_averaged else []),
            f"feature_names={' '.join(self.feature_names)}",
            f"feature_infos={' '.join(['none'] * len(self.feature_names))}",
        ]


def checked(text: str) -> tuple[str, Header]:
    """The model of `text`, written anew, and its header."""
    body, end, _ = text.partition("\nend of trees")
    if not end:  # files of before version 3 go on with this
        body, end, _ = text.partition("\nfeature importances:")
    if not end:
        raise ValueError("the end of the trees is missing")
    head, *trees = body.split("\nTree=")
    header = Header.of(head)
    if (sizes := _fields(head).get("tree_sizes")) is not None:
        check_lengths(trees=(len(trees), len(sizes.split())))
    if not trees or len(trees) % header.trees_per_iteration:
        raise ValueError(f"{len(trees)} trees are no whole number of iterations of {header.trees_per_iteration}")
    parts = ["\n".join(header.lines())]
    for index, tree in enumerate(trees):
        try:
            lines = _tree_lines(_fields(tree), len(header.feature_names))
        except ValueError as error:
            raise ValueError(f"tree {index}: {error}") from None
        parts.append("\n".join([f"Tree={index}", *lines]))
    return "\n\n".join([*parts, "end of trees\n"]), header


def _tree_lines(tree: Mapping[str, str], num_features: int) -> list[str]:
    """The lines of one tree, checked. A child c < 0 is the leaf ~c."""
    num_leaves, num_categorical = _whole(tree, "num_leaves"), _whole(tree, "num_cat")
    kept = ["leaf_value"]
    check_lengths(leaf_value=(len(_reals(tree, "leaf_value")), max(num_leaves, 1)))
    if num_leaves > 1:  # else there is nothing to decide
        _check_splits(tree, num_leaves, num_categorical, num_features)
        kept += ["split_feature", "threshold", "decision_type", "left_child", "right_child"]
        if num_categorical:
            kept += ["cat_boundaries", "cat_threshold"]
    elif num_categorical:
        raise ValueError(f"{num_categorical} categorical splits in a tree without any")
    is_linear = _whole(tree, "is_linear") if "is_linear" in tree else 0
    if is_linear:
        _check_linear(tree, num_leaves, num_features)
        kept += ["leaf_const", "num_features", "leaf_features", "leaf_coeff"]
    shrinkage = _reals(tree, "shrinkage") if "shrinkage" in tree else [1.0]
    check_lengths(shrinkage=(len(shrinkage), 1))
    return [
        f"num_leaves={num_leaves}",
        f"num_cat={num_categorical}",
        f"is_linear={int(bool(is_linear))}",
        f"shrinkage={float(shrinkage[0])!r}",
        *(f"{name}={tree[name]}" for name in kept),
    ]


def _check_splits(tree: Mapping[str, str], num_leaves: int, num_categorical: int, num_features: int) -> None:
    num_inner = num_leaves - 1
    names = ("left_child", "right_child", "split_feature", "decision_type")
    left, right, features, kinds = (_integers(tree, name) for name in names)
    thresholds = _reals(tree, "threshold")
    arrays = zip((*names, "threshold"), (left, right, features, kinds, thresholds), strict=True)
    check_lengths(**{name: (len(array), num_inner) for name, array in arrays})
    children = np.concatenate([left, right])
    check_indices("inner node", children[children >= 0], num_inner)
    check_indices("leaf", ~children[children < 0], num_leaves)
    check_tree(np.where(children < 0, num_inner + ~children, children), num_inner + num_leaves)
    check_indices("feature", features, num_features)
    check_indices("kind of decision", kinds, 16)
    of_categories = thresholds[(kinds & 1) == 1]
    if not (np.isfinite(of_categories).all() and (np.abs(of_categories) < 2**31).all()):
        raise ValueError("a categorical split has no set of categories")
    check_indices("set of categories", of_categories.astype(np.int64), num_categorical)
    if num_categorical:
        words, ends = _integers(tree, "cat_threshold"), _integers(tree, "cat_boundaries")
        check_lengths(cat_boundaries=(len(ends), num_categorical + 1))
        check_indices("word of categories", words, 1 << 32)
        check_indices("boundary of categories", ends, len(words) + 1)
        if (np.diff(ends) < 0).any() or ends[0] != 0 or ends[-1] != len(words):
            raise ValueError("the boundaries of categories do not ascend from the first to the last")


def _check_linear(tree: Mapping[str, str], num_leaves: int, num_features: int) -> None:
    """Leaves that hold linear models: a constant each, and coefficients of features."""
    counts, features = _integers(tree, "num_features"), _integers(tree, "leaf_features")
    check_lengths(leaf_const=(len(_reals(tree, "leaf_const")), num_leaves), num_features=(len(counts), num_leaves))
    check_indices("number of features", counts, num_features + 1)
    num_coefficients = int(counts.sum())
    check_lengths(
        leaf_features=(len(features), num_coefficients), leaf_coeff=(len(_reals(tree, "leaf_coeff")), num_coefficients)
    )
    check_indices("feature of a leaf", features, num_features)


def _fields(text: str) -> dict[str, str]:
    """The lines `name=value`. A name must not come twice: nobody could say which of them counts."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.partition("=")
        if name in fields:
            raise ValueError(f"{name[:40]!a} comes twice")
        if separator:
            fields[name] = value
    return fields


def _whole(fields: Mapping[str, str], name: str) -> int:
    """One number of at most nine digits, from 0."""
    text = fields.get(name, "").strip()
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise ValueError(f"{name} is {text[:40]!a}, which is no whole number")
    return int(text)


def _integers(fields: Mapping[str, str], name: str) -> Indices:
    reals = _reals(fields, name)
    if not (np.isfinite(reals).all() and (np.abs(reals) <= 1 << 32).all() and (reals == np.trunc(reals)).all()):
        raise ValueError(f"{name} holds more than whole numbers")
    if re.search(r"[.eE]", fields[name]):
        raise ValueError(f"{name} holds a number with a fraction")
    return reals.astype(np.int64)


def _reals(fields: Mapping[str, str], name: str) -> NDArray[np.float64]:
    text = fields.get(name)
    if text is None:
        raise ValueError(f"there is no {name}")
    if not _OF_NUMBERS.fullmatch(text):
        raise ValueError(f"{name} holds more than numbers")
    words: Sequence[Any] = text.split()
    return np.array(words, dtype=np.float64)
