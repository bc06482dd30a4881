"""The XGBoost runtime: answers as the library itself does, and refuses what is no model of its kind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.runtimes.xgboost import XgboostRuntime, check_booster, try_booster
from tests.predictor.runtimes.trained import FEATURES, TARGETS, answer, loaded, xgboost_classifier

ROWS = FEATURES.astype(np.float32)


def folder_with(tmp_path: Path, model: Any, name: str = "model.ubj") -> Path:
    model.save_model(tmp_path / name)
    return tmp_path


def trained(parameters: dict[str, Any], targets: Any, *, rounds: int = 4, **of_matrix: Any) -> xgboost.Booster:
    matrix = xgboost.DMatrix(ROWS, targets, **of_matrix)
    depth = {} if parameters.get("booster") == "gblinear" else {"max_depth": 3}
    return xgboost.train({"nthread": 1, **depth, **parameters}, matrix, rounds)


@pytest.mark.parametrize("name", ["model.json", "model.ubj", "other.json"])
async def test_a_classifier_answers_as_its_own_class(tmp_path: Path, name: str) -> None:
    library = xgboost_classifier()
    runtime = await loaded(XgboostRuntime(), folder_with(tmp_path, library, name))

    given = await answer(runtime, ROWS)

    np.testing.assert_array_equal(given["probabilities"], library.predict_proba(ROWS))
    np.testing.assert_array_equal(given["label"], library.predict(ROWS))
    assert given["label"].dtype == np.int64
    await runtime.unload()


async def test_an_objective_that_answers_labels_has_its_probabilities_all_the_same(tmp_path: Path) -> None:
    labels = trained({"objective": "multi:softmax", "num_class": 3}, TARGETS)
    probabilities = trained({"objective": "multi:softprob", "num_class": 3}, TARGETS)
    runtime = await loaded(XgboostRuntime(), folder_with(tmp_path, labels))

    given = await answer(runtime, ROWS)

    np.testing.assert_array_equal(given["label"], labels.predict(xgboost.DMatrix(ROWS)))
    np.testing.assert_allclose(given["probabilities"], probabilities.predict(xgboost.DMatrix(ROWS)), rtol=1e-5)


async def test_two_classes_have_two_probabilities(tmp_path: Path) -> None:
    library = xgboost.XGBClassifier(n_estimators=4, n_jobs=1).fit(ROWS, TARGETS == 1)
    runtime = await loaded(XgboostRuntime(), folder_with(tmp_path, library))

    given = await answer(runtime, ROWS)

    np.testing.assert_array_equal(given["probabilities"], library.predict_proba(ROWS))
    np.testing.assert_array_equal(given["label"], library.predict(ROWS))
    assert runtime.metadata.outputs[1].shape == (-1, 2)


async def test_several_labels_a_row(tmp_path: Path) -> None:
    targets = np.stack([TARGETS == 0, TARGETS > 1, ROWS[:, 0] > 6], axis=1).astype(int)
    library = xgboost.XGBClassifier(n_estimators=3, n_jobs=1).fit(ROWS, targets)
    runtime = await loaded(XgboostRuntime(), folder_with(tmp_path, library))

    given = await answer(runtime, ROWS)

    np.testing.assert_array_equal(given["label"], library.predict(ROWS))
    np.testing.assert_array_equal(given["probabilities"], library.predict_proba(ROWS))


async def test_a_hinge_has_labels_alone(tmp_path: Path) -> None:
    booster = trained({"objective": "binary:hinge"}, TARGETS == 1)
    runtime = await loaded(XgboostRuntime(), folder_with(tmp_path, booster))

    given = await answer(runtime, ROWS)

    assert set(given) == {"label"}
    np.testing.assert_array_equal(given["label"], booster.predict(xgboost.DMatrix(ROWS)))


@pytest.mark.parametrize(
    ("parameters", "shape"),
    [
        ({"objective": "reg:squarederror"}, (150,)),
        ({"objective": "count:poisson"}, (150,)),
        ({"objective": "binary:logitraw"}, (150,)),
        ({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]}, (150, 3)),
        ({"objective": "rank:ndcg"}, (150,)),
        ({"booster": "gblinear"}, (150,)),
        ({"booster": "dart", "rate_drop": 0.5}, (150,)),
        ({"multi_strategy": "multi_output_tree"}, (150, 2)),
    ],
    ids=str,
)
async def test_all_others_answer_with_values(
    tmp_path: Path, parameters: dict[str, Any], shape: tuple[int, ...]
) -> None:
    targets = (TARGETS == 1).astype(float)
    if "multi_strategy" in parameters:
        targets = np.stack([targets, ROWS[:, 0]], axis=1)
    of_matrix = {"group": [75, 75]} if parameters.get("objective") == "rank:ndcg" else {}
    booster = trained(parameters, targets, **of_matrix)
    runtime = await loaded(XgboostRuntime(), folder_with(tmp_path, booster))

    given = await answer(runtime, ROWS)

    assert given["value"].shape == shape
    # XGBRegressor, too, sums up the trees of dart in another order than Booster.predict does.
    tolerance = 1e-6 if parameters.get("booster") == "dart" else 0
    np.testing.assert_allclose(given["value"], booster.predict(xgboost.DMatrix(ROWS)), rtol=tolerance)


async def test_missing_values_are_nan(xgboost_file: Path) -> None:
    rows = ROWS.copy()
    rows[::2, 2] = np.nan

    given = await answer(await loaded(XgboostRuntime(), xgboost_file), rows)

    np.testing.assert_array_equal(given["probabilities"], xgboost_classifier().predict_proba(rows))


async def test_infinity_is_the_caller_s_error_where_the_library_does_not_take_it(tmp_path: Path) -> None:
    booster = trained({"booster": "gblinear"}, TARGETS)
    runtime = await loaded(XgboostRuntime(), folder_with(tmp_path, booster))

    with pytest.raises(InvalidInput, match="holds an infinity"):
        await answer(runtime, np.full((1, 4), np.inf))


async def test_trees_after_the_best_iteration_are_left_out(tmp_path: Path) -> None:
    library = xgboost.XGBClassifier(n_estimators=30, early_stopping_rounds=2, learning_rate=1.0, n_jobs=1)
    library.fit(ROWS[::2], TARGETS[::2], eval_set=[(ROWS[1::2], TARGETS[1::2])], verbose=False)
    folder = folder_with(tmp_path, library)
    whole = library.get_booster().predict(xgboost.DMatrix(ROWS))

    best = await answer(await loaded(XgboostRuntime(), folder), ROWS)
    every = await answer(await loaded(XgboostRuntime(), folder, use_best_iteration="false"), ROWS)

    np.testing.assert_array_equal(best["probabilities"], library.predict_proba(ROWS))
    np.testing.assert_array_equal(every["probabilities"], whole)
    assert not np.array_equal(best["probabilities"], every["probabilities"])


async def test_categorical_features_are_codes(tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[:, 0] = np.arange(150) % 11
    matrix = xgboost.DMatrix(
        rows,
        np.sin(rows[:, 0]),
        feature_types=["c", "q", "q", "q"],
        feature_names=list("abcd"),
        enable_categorical=True,
    )
    booster = xgboost.train({"nthread": 1, "max_cat_to_onehot": 1}, matrix, 4)
    runtime = await loaded(XgboostRuntime(), folder_with(tmp_path, booster))

    given = await answer(runtime, rows)

    np.testing.assert_array_equal(given["value"], booster.predict(matrix))
    assert json.loads(runtime.metadata.parameters["feature_names"]) == list("abcd")


async def test_metadata_beside_the_model_is_read_and_checked(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, xgboost_classifier())
    (folder / "metadata.json").write_text('{"class_names": ["a", "b", "c"], "feature_baseline": [1, 2, 3, 4]}')

    parameters = (await loaded(XgboostRuntime(), folder)).metadata.parameters

    assert parameters["class_names"] == '["a", "b", "c"]'
    assert parameters["objective"] == "multi:softprob"
    (folder / "metadata.json").write_text('{"class_names": ["a"]}')
    with pytest.raises(CorruptArtifact, match="'class_names' has 1 entries; the model has 3 classes"):
        await loaded(XgboostRuntime(), folder)


async def test_a_batch_of_nothing_gets_empty_outputs(xgboost_file: Path) -> None:
    given = await answer(await loaded(XgboostRuntime(), xgboost_file), np.empty((0, 4)))

    assert (given["label"].shape, given["probabilities"].shape) == ((0,), (0, 3))


@pytest.mark.parametrize("content", [b"binf\x00\x01", b"\x00\x00\x00\x3f" * 40, pickle.dumps({"a": 1}), b""], ids=repr)
async def test_an_old_format_is_refused_with_the_way_to_convert_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.bst").write_bytes(content)

    with pytest.raises(CorruptArtifact, match=r"neither JSON nor UBJSON.*save_model\('model.ubj'\)"):
        await loaded(XgboostRuntime(), tmp_path)


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"has none of model\.json, model\.ubj, model\.bst"):
        await loaded(XgboostRuntime(), tmp_path)
    with pytest.raises(CorruptArtifact, match=r"no file nowhere\.ubj|has none of"):
        await loaded(XgboostRuntime(), tmp_path / "nowhere.ubj")


def content_of(booster: xgboost.Booster) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(booster.save_raw("json"))
    return content


def first_tree(content: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = content["learner"]["gradient_booster"]["model"]["trees"][0]
    return tree


@pytest.mark.parametrize(
    ("name", "index", "value", "sentence"),
    [
        ("left_children", 0, 0, "side by side"),
        ("left_children", 0, 10_000, "side by side"),
        ("split_indices", 0, 4, "feature 4 is not one of 4"),
        ("split_indices", 0, -1, "feature -1 is not one of 4"),
    ],
)
def test_an_index_that_leads_nowhere_is_found(name: str, index: int, value: int, sentence: str) -> None:
    content = content_of(trained({}, TARGETS))
    check_booster(content)
    first_tree(content)[name][index] = value

    with pytest.raises(ValueError, match=f"tree 0: .*{sentence}"):
        check_booster(content)


def test_a_circle_is_found() -> None:
    content = content_of(trained({}, TARGETS))
    tree = first_tree(content)
    tree["left_children"][1], tree["right_children"][1] = 1, 2

    with pytest.raises(ValueError, match="parent too many"):
        check_booster(content)


def test_outputs_that_the_model_has_not_are_found() -> None:
    content = content_of(trained({}, TARGETS))
    content["learner"]["gradient_booster"]["model"]["tree_info"][0] = 5

    with pytest.raises(ValueError, match="output 5 is not one of 1"):
        check_booster(content)


@pytest.mark.parametrize("value", ["-7", "many", "1000000"])
def test_a_best_iteration_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    booster = trained({}, TARGETS)
    booster.set_attr(best_iteration=value)
    booster.save_model(tmp_path / "model.ubj")

    with pytest.raises(CorruptArtifact, match="best_iteration"):
        try_booster(tmp_path / "model.ubj")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_threads": "0"}, "option 'num_threads' is 0; it must be 1 to 64"),
        ({"use_best_iteration": "no"}, "option 'use_best_iteration' is 'no'; it must be of type bool"),
    ],
)
async def test_a_wrong_option_is_named(xgboost_file: Path, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await loaded(XgboostRuntime(), xgboost_file, **options)
