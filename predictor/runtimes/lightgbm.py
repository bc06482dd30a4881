"""LightGBM models in the library's own text format, which `Booster.save_model` writes.

Every output equals what `LGBMClassifier`, `LGBMRegressor` or `LGBMRanker` with that model answers. The outputs
depend on the model's objective alone. What the tensors mean to a client is in docs/runtimes.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from mesh.errors import CorruptArtifact
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.in_process import ComputeOptions, InProcessRuntime
from predictor.runtimes.model_file import find_model_file
from predictor.runtimes.table_metadata import TableMetadata, read_table_metadata
from predictor.runtimes.tree_check import Indices, check_indices, check_lengths, check_tree
from predictor.runtimes.trial import try_loading

SUFFIXES = (".txt", ".lgb", ".bst")
MAX_CLASSES = 1 << 16

# Objectives whose predictions are probabilities of classes; all others answer values.
_BINARY, _MULTICLASS = "binary", ("multiclass", "multiclassova")


class LightgbmRuntime(InProcessRuntime):
    """One input `input`, FP64 [-1, num_features], in which NaN is a missing value, and a categorical feature its code.

    Classifiers answer `label` INT64 [n], the index of the class, and `probabilities` FP64 [n, num_classes]; all others
    answer `value`: FP64 [n], or [n, num_values] for a custom objective with several.
    """

    async def _open(self, artifact: ModelArtifact, options: ComputeOptions, pool: ComputePool) -> BoosterModel:
        path = find_model_file(artifact.path, SUFFIXES)
        memory_bytes = await try_loading("predictor.runtimes.lightgbm:try_booster", path)
        facts = read_table_metadata(artifact.path)
        return await pool.run(lambda: BoosterModel(read_booster(path), facts, options, memory_bytes))


class BoosterModel:
    """Implements in_process.OpenModel."""

    def __init__(
        self, booster: lightgbm.Booster, facts: TableMetadata, options: ComputeOptions, memory_bytes: int = 0
    ) -> None:
        self.memory_bytes = max(memory_bytes, 1)
        self._booster = booster
        self._num_threads = options.num_threads
        self._header = Header.of(booster.model_to_string(num_iteration=1))
        num_features = booster.num_feature()
        names = tuple(booster.feature_name())
        # The library's own names, for data that had none, say nothing.
        is_named = names != tuple(f"Column_{index}" for index in range(num_features))
        facts = facts.named(names if is_named else ())
        facts.check(num_features=num_features, num_classes=self._header.num_classes)
        self._metadata = ModelMetadata(
            platform="lightgbm",
            backend="lightgbm",
            inputs=(TensorSpec("input", "FP64", (-1, num_features)),),
            outputs=self._outputs(num_features),
            max_batch_size=options.max_batch_size,
            parameters={**facts.parameters(), "objective": self._header.objective},
        )

    @property
    def metadata(self) -> ModelMetadata:
        return self._metadata

    def predict(self, inputs: Arrays) -> Arrays:
        return self._answer(inputs["input"])

    def _answer(self, rows: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """rows: [n, num_features]."""
        # Trees after the best iteration of early stopping are left out, where the model says so, as by the library.
        predicted = np.asarray(self._booster.predict(rows, num_threads=self._num_threads))  # [n] or [n, k]
        if self._header.objective == _BINARY:
            return {
                "label": (predicted > 0.5).astype(np.int64),
                "probabilities": np.stack([1 - predicted, predicted], axis=1),
            }
        if self._header.objective in _MULTICLASS:
            return {"label": predicted.argmax(axis=1), "probabilities": predicted}
        return {"value": predicted}

    def _outputs(self, num_features: int) -> tuple[TensorSpec, ...]:
        """The answers to one row are those to all, as far as names, datatypes and widths go."""
        answer = self._answer(np.zeros((1, num_features)))
        return tuple(
            TensorSpec(name, "INT64" if name == "label" else "FP64", (-1, *array.shape[1:]))
            for name, array in answer.items()
        )


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the trees. num_classes: 0 unless the model tells classes apart; objective: "" for none."""

    objective: str
    num_classes: int
    trees_per_iteration: int

    @classmethod
    def of(cls, text: str) -> Header:
        """Raises ValueError when its parts disagree: the library would write past the end of its answers."""
        fields = _fields(text.partition("\n\n")[0])
        words = fields.get("objective", "").split()
        objective = words[0] if words else ""
        num_classes, per_iteration = int(fields["num_class"]), int(fields["num_tree_per_iteration"])
        if not 1 <= num_classes <= MAX_CLASSES or per_iteration != num_classes:
            raise ValueError(f"{num_classes} classes and {per_iteration} trees an iteration do not go together")
        of_objective = [int(word.partition(":")[2]) for word in words if word.startswith("num_class:")]
        if any(one != num_classes for one in of_objective) or (objective in _MULTICLASS) != bool(of_objective):
            raise ValueError(f"objective {' '.join(words)[:100]!a} does not go with {num_classes} classes")
        if objective in _MULTICLASS:
            return cls(objective, num_classes, per_iteration)
        if objective and num_classes != 1:
            raise ValueError(f"objective {objective[:100]!a} does not go with {num_classes} classes")
        return cls(objective, 2 if objective == _BINARY else 0, per_iteration)


def read_booster(path: Path) -> lightgbm.Booster:
    """Raises CorruptArtifact for what is no text model of LightGBM."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CorruptArtifact(f"there is no file {path.name}") from None
    except UnicodeDecodeError:
        text = ""
    if not text.startswith("tree\n"):
        raise CorruptArtifact(
            f"{path.name} is no text model of LightGBM, which begins with the line 'tree'; write one with "
            "Booster.save_model('model.txt')"
        )
    try:
        return lightgbm.Booster(model_str=text)
    except (lightgbm.basic.LightGBMError, ValueError, LookupError, TypeError) as error:
        raise CorruptArtifact(f"{path.name} is truncated or no model of LightGBM: {str(error)[:200]}") from None


def try_booster(path: Path) -> BoosterModel:
    """What the trial does: read the file, check every tree, predict a row. Raises CorruptArtifact."""
    booster = read_booster(path)
    try:
        check_model(booster.model_to_string(num_iteration=-1), booster.num_feature())
        model = BoosterModel(booster, TableMetadata(), ComputeOptions())
        for value in (np.nan, -1e300, 1e300):
            model.predict({"input": np.full((1, booster.num_feature()), value)})
    except (lightgbm.basic.LightGBMError, LookupError, ValueError, TypeError, OverflowError) as error:
        raise CorruptArtifact(f"{path.name} is malformed: {str(error)[:200]}") from None
    return model


def check_model(text: str, num_features: int) -> None:
    """Check a whole model, as `model_to_string` has it. Raises ValueError or LookupError."""
    header = Header.of(text)
    num_trees = 0
    for tree in _trees(text):
        try:
            _check_tree(tree, num_features)
        except ValueError as error:
            raise ValueError(f"tree {num_trees}: {error}") from None
        num_trees += 1
    if num_trees % header.trees_per_iteration:
        raise ValueError(f"{num_trees} trees are no whole number of iterations of {header.trees_per_iteration}")


def _trees(text: str) -> Iterator[dict[str, str]]:
    """The fields of each tree."""
    body = text.partition("\nend of trees")[0]
    for part in body.split("\nTree=")[1:]:
        yield _fields(part)


def _fields(text: str) -> dict[str, str]:
    """The lines `name=value`."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, separator, value in pairs if separator}


def _check_tree(tree: Mapping[str, str], num_features: int) -> None:
    """The format: src/io/tree.cpp of LightGBM, Tree::ToString. A child c < 0 is the leaf ~c."""
    num_leaves, num_categorical = int(tree["num_leaves"]), int(tree["num_cat"])
    if num_leaves < 1 or num_categorical < 0:
        raise ValueError(f"{num_leaves} leaves and {num_categorical} categorical splits")
    num_inner = num_leaves - 1
    left, right, features, kinds = (
        _numbers(tree, name) for name in ("left_child", "right_child", "split_feature", "decision_type")
    )
    if num_inner:  # else the library writes no arrays
        names = ("left_child", "right_child", "split_feature", "decision_type")
        check_lengths(**{name: (len(_numbers(tree, name)), num_inner) for name in names})
        check_lengths(threshold=(len(tree["threshold"].split()), num_inner))
        children = np.concatenate([left, right])
        check_tree(np.where(children < 0, num_inner + ~children, children), num_inner + num_leaves)
        check_indices("inner node", children[children >= 0], num_inner)
        check_indices("feature", features, num_features)
    check_lengths(leaf_value=(len(tree["leaf_value"].split()), num_leaves))
    if num_categorical:
        ends, num_words = _numbers(tree, "cat_boundaries"), len(tree["cat_threshold"].split())
        check_lengths(cat_boundaries=(len(ends), num_categorical + 1))
        check_indices("boundary of categories", ends, num_words + 1)
        if (np.diff(ends) < 0).any():
            raise ValueError("the boundaries of categories do not ascend")
    thresholds = np.array(tree.get("threshold", "").split(), dtype=np.float64)
    of_categories = thresholds[(kinds & 1) == 1] if num_inner else thresholds[:0]
    if not np.isfinite(of_categories).all():
        raise ValueError("a categorical split has no set of categories")
    check_indices("set of categories", of_categories.astype(np.int64), num_categorical)
    if int(tree.get("is_linear", "0")):
        _check_linear(tree, num_leaves, num_features)


def _check_linear(tree: Mapping[str, str], num_leaves: int, num_features: int) -> None:
    """Leaves that hold linear models: a constant each, and coefficients of features."""
    counts, features = _numbers(tree, "num_features"), _numbers(tree, "leaf_features")
    check_lengths(
        leaf_const=(len(tree["leaf_const"].split()), num_leaves),
        num_features=(len(counts), num_leaves),
        leaf_features=(len(features), int(counts.sum())),
        leaf_coeff=(len(tree["leaf_coeff"].split()), int(counts.sum())),
    )
    check_indices("number of features", counts, num_features + 1)
    check_indices("feature of a leaf", features, num_features)


def _numbers(tree: Mapping[str, str], name: str) -> Indices:
    return np.array(tree.get(name, "").split(), dtype=np.int64)
