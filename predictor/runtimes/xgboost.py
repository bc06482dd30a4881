"""XGBoost models in the library's own formats: model.json and model.ubj.

Every output equals what `XGBClassifier`, `XGBRegressor` or `XGBRanker` with that model answers. The outputs depend on
the model's objective alone. What the tensors mean to a client is in docs/runtimes.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.in_process import ComputeOptions, InProcessRuntime
from predictor.runtimes.model_file import find_model_file
from predictor.runtimes.table_metadata import TableMetadata, read_table_metadata
from predictor.runtimes.tree_check import check_indices, check_lengths, check_tree, indices
from predictor.runtimes.trial import try_loading

SUFFIXES = (".json", ".ubj", ".bst")

# Objectives whose predictions are probabilities of classes; all others answer values.
_BINARY, _MULTICLASS, _HINGE = "binary:logistic", ("multi:softprob", "multi:softmax"), "binary:hinge"


@dataclass(frozen=True, slots=True)
class XgboostOptions(ComputeOptions):
    """use_best_iteration: trees after the best iteration of early stopping are left out, where the model says so."""

    use_best_iteration: bool = True


class XgboostRuntime(InProcessRuntime):
    """One input `input`, FP32 [-1, num_features], in which NaN is a missing value.

    Classifiers answer `label` INT64 [n] and `probabilities` FP32 [n, num_classes]; for several labels a row (one binary
    target each) both are [n, num_targets]. `binary:hinge` has no probabilities. All others answer `value`: FP32 [n] or
    [n, num_values].
    """

    options_class = XgboostOptions

    async def _open(self, artifact: ModelArtifact, options: XgboostOptions, pool: ComputePool) -> BoosterModel:
        path = find_model_file(artifact.path, SUFFIXES)
        memory_bytes = await try_loading("predictor.runtimes.xgboost:try_booster", path)
        facts = read_table_metadata(artifact.path)
        return await pool.run(lambda: BoosterModel(read_booster(path), facts, options, memory_bytes))


class BoosterModel:
    """Implements in_process.OpenModel."""

    def __init__(
        self, booster: xgboost.Booster, facts: TableMetadata, options: XgboostOptions, memory_bytes: int = 0
    ) -> None:
        self.memory_bytes = max(memory_bytes, 1)
        self._booster = booster
        self._learner = Learner.of(booster)
        self._iterations = _iterations(booster) if options.use_best_iteration else (0, 0)
        booster.set_param({"nthread": options.num_threads})
        num_features = int(booster.num_features())
        facts = facts.named(tuple(booster.feature_names or ()))
        facts.check(num_features=num_features, num_classes=self._learner.num_classes)
        self._metadata = ModelMetadata(
            platform="xgboost",
            backend="xgboost",
            inputs=(TensorSpec("input", "FP32", (-1, num_features)),),
            outputs=self._outputs(num_features),
            max_batch_size=options.max_batch_size,
            parameters={**facts.parameters(), "objective": self._learner.objective},
        )

    @property
    def metadata(self) -> ModelMetadata:
        return self._metadata

    def predict(self, inputs: Arrays) -> Arrays:
        rows = inputs["input"]  # [n, num_features]
        try:
            predicted = self._library_prediction(rows)
        except xgboost.core.XGBoostError:
            if not np.isinf(rows).any():
                raise
            raise InvalidInput("input 'input' holds an infinity, which XGBoost does not take", field="input") from None
        return self._learner.answer(predicted)

    def _library_prediction(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n] or [n, k]; the margins where the objective itself would answer with labels."""
        as_margin = self._learner.objective == "multi:softmax"
        if self._learner.is_linear:  # which inplace_predict does not know
            matrix = xgboost.DMatrix(rows, nthread=1)
            predicted = self._booster.predict(
                matrix, output_margin=as_margin, iteration_range=self._iterations, validate_features=False
            )
        else:
            predicted = self._booster.inplace_predict(
                rows,
                iteration_range=self._iterations,
                predict_type="margin" if as_margin else "value",
                validate_features=False,  # of names: the rows have none
            )
        return np.asarray(predicted, dtype=np.float32)

    def _outputs(self, num_features: int) -> tuple[TensorSpec, ...]:
        """The answers to one row are those to all, as far as names, datatypes and widths go."""
        answer = self._learner.answer(self._library_prediction(np.zeros((1, num_features), dtype=np.float32)))
        datatypes = {"label": "INT64"}
        return tuple(
            TensorSpec(name, datatypes.get(name, "FP32"), (-1, *array.shape[1:])) for name, array in answer.items()
        )


@dataclass(frozen=True, slots=True)
class Learner:
    """What decides how a prediction is read. num_classes: 0 unless the model tells classes apart."""

    objective: str
    num_classes: int
    is_linear: bool

    @classmethod
    def of(cls, booster: xgboost.Booster) -> Learner:
        """Raises CorruptArtifact when the model's own parts disagree."""
        config = json.loads(booster.save_config())["learner"]
        objective = config["objective"]["name"]
        num_classes = int(config["learner_model_param"]["num_class"])
        if objective in _MULTICLASS:
            own = int(config["objective"]["softmax_multiclass_param"]["num_class"])
            if own != num_classes or num_classes < 1:
                raise CorruptArtifact(f"the model has {num_classes} classes, and its objective {own}")
        elif num_classes > 1 and objective in (_BINARY, _HINGE):
            raise CorruptArtifact(f"the model has {num_classes} classes, and its objective is {objective}")
        elif objective in (_BINARY, _HINGE):
            num_targets = int(config["learner_model_param"].get("num_target", 1))
            num_classes = 2 if num_targets == 1 else num_targets
        return cls(objective, num_classes, is_linear=config["gradient_booster"]["name"] == "gblinear")

    def answer(self, predicted: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The outputs from the library's prediction, [n] or [n, k], as its scikit-learn classes read it."""
        if self.objective in _MULTICLASS:
            probabilities = predicted if self.objective == "multi:softprob" else _softmax(predicted)
            return {"label": probabilities.argmax(axis=1), "probabilities": probabilities}
        if self.objective not in (_BINARY, _HINGE):
            return {"value": predicted}
        label = (predicted > 0.5).astype(np.int64)
        if self.objective == _HINGE:
            return {"label": label}
        one_target = predicted.ndim == 1
        return {"label": label, "probabilities": np.stack([1 - predicted, predicted], 1) if one_target else predicted}


def read_booster(path: Path) -> xgboost.Booster:
    """Raises CorruptArtifact for what is no model of XGBoost, and for its old formats."""
    try:
        with path.open("rb") as file:
            start = file.read(16).lstrip()
    except FileNotFoundError:
        raise CorruptArtifact(f"there is no file {path.name}") from None
    if not start.startswith(b"{"):
        raise CorruptArtifact(
            f"{path.name} is neither JSON nor UBJSON. A pickle, or the binary format of XGBoost before 3.1, converts: "
            "load it with the version that wrote it and call save_model('model.ubj')"
        )
    booster = xgboost.Booster()
    try:
        # By content: the library goes by a file's name, and takes any that it does not know for UBJSON.
        booster.load_model(bytearray(path.read_bytes()))
        booster.num_features()
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        raise CorruptArtifact(f"{path.name} is truncated or no model of XGBoost ({_first_line(error)})") from None
    return booster


def try_booster(path: Path) -> BoosterModel:
    """What the trial does: read the file, check every tree, predict a row. Raises CorruptArtifact."""
    booster = read_booster(path)
    try:
        check_booster(json.loads(booster.save_raw("json")))
        model = BoosterModel(booster, TableMetadata(), XgboostOptions())
        num_features = model.metadata.inputs[0].shape[1]
        for value in (np.nan, -1e30, 1e30):
            model.predict({"input": np.full((1, num_features), value, dtype=np.float32)})
    except (xgboost.core.XGBoostError, LookupError, ValueError, TypeError, OverflowError) as error:
        raise CorruptArtifact(f"{path.name} is malformed: {_first_line(error)}") from None
    return model


def check_booster(content: Mapping[str, Any]) -> None:
    """Check a model, as `save_raw("json")` has it. Raises ValueError or LookupError."""
    learner = content["learner"]
    parameters = learner["learner_model_param"]
    num_features = int(parameters["num_feature"])
    num_groups = max(int(parameters["num_class"]), int(parameters.get("num_target", 1)), 1)
    gradient_booster = learner["gradient_booster"]
    if gradient_booster["name"] == "gblinear":
        check_lengths(weights=(len(gradient_booster["model"]["weights"]), (num_features + 1) * num_groups))
        return
    trees = gradient_booster.get("gbtree", gradient_booster)["model"]  # dart has its trees one level below
    check_lengths(tree_info=(len(trees["tree_info"]), len(trees["trees"])))
    if "weight_drop" in gradient_booster:
        check_lengths(weight_drop=(len(gradient_booster["weight_drop"]), len(trees["trees"])))
    check_indices("output", indices(trees["tree_info"]), num_groups)
    for place, tree in enumerate(trees["trees"]):
        try:
            _check_tree(tree, num_features)
        except ValueError as error:
            raise ValueError(f"tree {place}: {error}") from None


def _check_tree(tree: Mapping[str, Any], num_features: int) -> None:
    left, right, features = (indices(tree[name]) for name in ("left_children", "right_children", "split_indices"))
    num_nodes = len(left)
    lengths = {name: (len(tree[name]), num_nodes) for name in ("right_children", "split_indices", "split_conditions")}
    check_lengths(left_children=(num_nodes, max(num_nodes, 1)), **lengths)
    is_inner = left != -1
    if (right[is_inner] != left[is_inner] + 1).any():  # the library computes the right child from the left one
        raise ValueError("the two children of a node are not side by side")
    check_tree(np.concatenate([left[is_inner], right[is_inner]]), num_nodes)
    check_indices("feature", features[is_inner], num_features)
    check_indices("node with categories", indices(tree["categories_nodes"]), num_nodes)
    begins, sizes = indices(tree["categories_segments"]), indices(tree["categories_sizes"])
    check_lengths(
        categories_segments=(len(begins), len(tree["categories_nodes"])), categories_sizes=(len(sizes), len(begins))
    )
    check_indices("begin of categories", begins, len(tree["categories"]) + 1)
    check_indices("end of categories", begins + sizes, len(tree["categories"]) + 1)
    if "leaf_weights" in tree:
        num_leaves = len(tree["leaf_weights"]) // max(int(tree["tree_param"]["size_leaf_vector"]), 1)
        check_indices("leaf", right[~is_inner][right[~is_inner] != -1], num_leaves)


def _iterations(booster: xgboost.Booster) -> tuple[int, int]:
    """The range of iterations that XGBClassifier and its like predict with; (0, 0) is all of them."""
    try:
        best = int(booster.best_iteration)
    except AttributeError:
        return (0, 0)
    except ValueError as error:
        raise CorruptArtifact(f"the model's best_iteration is no number: {error}") from None
    num_rounds = booster.num_boosted_rounds()
    if not 0 <= best < num_rounds:
        raise CorruptArtifact(f"the model's best_iteration is {best}; it has the iterations 0 to {num_rounds - 1}")
    return (0, best + 1)


def _softmax(margins: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, k] over its second axis, as XGBClassifier computes it."""
    shifted = np.exp(margins - margins.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _first_line(error: Exception) -> str:
    """Of XGBoost's message, which goes on with a stack and begins with time and place."""
    line = (str(error).splitlines() or [""])[0]
    return line.rpartition("Check failed: ")[2].rpartition("/")[2][:200] or type(error).__name__
