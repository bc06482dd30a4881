"""The LightGBM runtime: answers as the library itself does, and refuses what is no model of its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from mesh.errors import CorruptArtifact
from predictor.runtimes.lightgbm import LightgbmRuntime
from tests.predictor.runtimes.trained import FEATURES, TARGETS, answer, lightgbm_classifier, loaded

QUIET = {"verbose": -1, "num_threads": 1, "num_leaves": 6}


def folder_with(tmp_path: Path, booster: lightgbm.Booster, name: str = "model.txt") -> Path:
    booster.save_model(tmp_path / name)
    return tmp_path


def trained(parameters: dict[str, Any], targets: Any, rows: Any = FEATURES, **of_data: Any) -> lightgbm.Booster:
    return lightgbm.train({**QUIET, **parameters}, lightgbm.Dataset(rows, targets, **of_data), 4)


@pytest.mark.parametrize("name", ["model.txt", "model.lgb", "model.bst"])
async def test_a_classifier_answers_as_its_own_class(tmp_path: Path, name: str) -> None:
    library = lightgbm_classifier()
    runtime = await loaded(LightgbmRuntime(), folder_with(tmp_path, library.booster_, name))

    given = await answer(runtime, FEATURES)

    np.testing.assert_array_equal(given["probabilities"], library.predict_proba(FEATURES))
    np.testing.assert_array_equal(given["label"], library.predict(FEATURES))
    await runtime.unload()


async def test_two_classes_have_two_probabilities(tmp_path: Path) -> None:
    library = lightgbm.LGBMClassifier(n_estimators=4, num_leaves=6, n_jobs=1, verbose=-1).fit(FEATURES, TARGETS == 1)
    runtime = await loaded(LightgbmRuntime(), folder_with(tmp_path, library.booster_))

    given = await answer(runtime, FEATURES)

    np.testing.assert_array_equal(given["probabilities"], library.predict_proba(FEATURES))
    np.testing.assert_array_equal(given["label"], library.predict(FEATURES))
    assert runtime.metadata.outputs[1].shape == (-1, 2)


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective": "regression"},
        {"objective": "poisson"},
        {"objective": "quantile"},
        {"objective": "lambdarank"},
        {"objective": "cross_entropy"},
        {"objective": "regression", "linear_tree": True},
        {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    ],
    ids=str,
)
async def test_all_others_answer_with_values(tmp_path: Path, parameters: dict[str, Any]) -> None:
    of_data = {"group": [75, 75]} if parameters["objective"] == "lambdarank" else {}
    booster = trained(parameters, (TARGETS == 1).astype(float), **of_data)
    runtime = await loaded(LightgbmRuntime(), folder_with(tmp_path, booster))

    given = await answer(runtime, FEATURES)

    np.testing.assert_array_equal(given["value"], lightgbm.Booster(model_file=tmp_path / "model.txt").predict(FEATURES))
    assert runtime.metadata.parameters["objective"] == parameters["objective"]


async def test_a_custom_objective_has_a_value_for_each_of_its_outputs(tmp_path: Path) -> None:
    def gradients(scores: Any, data: lightgbm.Dataset) -> tuple[Any, Any]:
        one_hot = np.eye(3)[TARGETS]
        return scores - one_hot, np.ones_like(one_hot)

    booster = trained({"objective": gradients, "num_class": 3}, TARGETS)
    runtime = await loaded(LightgbmRuntime(), folder_with(tmp_path, booster))

    given = await answer(runtime, FEATURES)

    assert given["value"].shape == (150, 3)
    np.testing.assert_array_equal(given["value"], booster.predict(FEATURES))


async def test_missing_values_and_categorical_codes(tmp_path: Path) -> None:
    rows = FEATURES.copy()
    rows[:, 0] = np.arange(150) % 11
    rows[::7, 2] = np.nan
    booster = trained(
        {"objective": "regression", "min_data_per_group": 1, "max_cat_to_onehot": 1, "cat_smooth": 0},
        np.sin(rows[:, 0]), rows, categorical_feature=[0], feature_name=list("abcd"),
    )  # fmt: skip
    runtime = await loaded(LightgbmRuntime(), folder_with(tmp_path, booster))

    given = await answer(runtime, rows)

    assert "num_cat=0" not in booster.model_to_string()
    np.testing.assert_array_equal(given["value"], booster.predict(rows))
    assert json.loads(runtime.metadata.parameters["feature_names"]) == list("abcd")


async def test_trees_after_the_best_iteration_are_left_out(tmp_path: Path) -> None:
    library = lightgbm.LGBMClassifier(n_estimators=60, learning_rate=0.9, n_jobs=1, verbose=-1, min_child_samples=2)
    library.fit(
        FEATURES[::2], TARGETS[::2], eval_set=[(FEATURES[1::2], TARGETS[1::2])],
        callbacks=[lightgbm.early_stopping(2, verbose=False)],
    )  # fmt: skip
    runtime = await loaded(LightgbmRuntime(), folder_with(tmp_path, library.booster_))

    given = await answer(runtime, FEATURES)

    assert library.best_iteration_ < 60
    np.testing.assert_array_equal(given["probabilities"], library.predict_proba(FEATURES))


async def test_names_that_nobody_gave_are_none(lightgbm_file: Path) -> None:
    runtime = await loaded(LightgbmRuntime(), lightgbm_file)

    assert "feature_names" not in runtime.metadata.parameters


async def test_a_batch_of_nothing_gets_empty_outputs(lightgbm_file: Path) -> None:
    given = await answer(await loaded(LightgbmRuntime(), lightgbm_file), np.empty((0, 4)))

    assert (given["label"].shape, given["probabilities"].shape) == ((0,), (0, 3))


@pytest.mark.parametrize("content", [b"", b"\x80\x04}", b"tre\n", b"\xff\xfe\x00tree"], ids=repr)
async def test_what_is_no_text_model_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.txt").write_bytes(content)

    with pytest.raises(CorruptArtifact, match=r"no text model of LightGBM.*save_model\('model.txt'\)"):
        await loaded(LightgbmRuntime(), tmp_path)


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"has none of model\.txt, model\.lgb, model\.bst"):
        await loaded(LightgbmRuntime(), tmp_path)
