"""LightGBM's text format: what is sound comes out the same for predictions, what is not is named."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from predictor.runtimes.lightgbm_text import checked
from tests.predictor.runtimes.trained import FEATURES, lightgbm_classifier

ROWS = FEATURES.copy()
ROWS[:, 0] = np.arange(150) % 11


def with_categories_and_linear_leaves() -> lightgbm.Booster:
    parameters = {
        "objective": "regression", "linear_tree": True, "min_data_per_group": 1, "max_cat_to_onehot": 1,
        "cat_smooth": 0, "verbose": -1, "num_threads": 1, "num_leaves": 6,
    }  # fmt: skip
    data = lightgbm.Dataset(ROWS, np.sin(ROWS[:, 0]) + ROWS[:, 1], categorical_feature=[0])
    return lightgbm.train(parameters, data, 4)


@pytest.mark.parametrize("booster", [lightgbm_classifier().booster_, with_categories_and_linear_leaves()], ids=str)
def test_a_model_written_anew_predicts_the_same(booster: lightgbm.Booster) -> None:
    text, header = checked(booster.model_to_string())

    anew = lightgbm.Booster(model_str=text)

    np.testing.assert_array_equal(anew.predict(ROWS), booster.predict(ROWS))
    assert header.feature_names == tuple(booster.feature_name())
    assert checked(text) == (text, header)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("num_class=3", "num_class=4", "4 classes and 3 trees an iteration"),
        ("multiclass num_class:3", "multiclass num_class:9", "does not go with 3 classes"),
        ("multiclass num_class:3", "binary sigmoid:1", "does not go with 3 classes"),
        ("split_feature=", "split_feature=9", "feature 9"),
        ("left_child=1", "left_child=0", "parent too many"),
        ("left_child=1", "left_child=99", "inner node 99 is not one of"),
        ("num_leaves=", "num_leaves=-", "leaves"),
        ("decision_type=2", "decision_type=3", "set of categories"),
        ("leaf_value=", "leaf_value=1 ", "leaf_value has"),
        ("threshold=", "threshold=1_0 ", "threshold holds more than numbers"),
        ("threshold=", "threshold=e ", "could not convert"),
        ("left_child=", "left_child=1e0 ", "left_child holds a number with a fraction"),
        ("left_child=", "left_chjld=", "there is no left_child"),
        ("num_leaves=", "num_leaves=3\nnum_leaves=", "'num_leaves' comes twice"),
        ("max_feature_idx=3", "max_feature_idx=999999999", "feature_names has 4 entries, not 1000000000"),
        ("max_feature_idx=3", "max_feature_idx=9999999999", "which is no whole number"),
        ("objective=", "objective=%n ", "is none"),
        ("Tree=14", "Trunk=14", "trees has 14 entries, not 15"),
        ("end of trees", "end of tree", "the end of the trees is missing"),
    ],
)
def test_what_would_lead_the_library_astray_is_found(old: str, new: str, sentence: str) -> None:
    text = lightgbm_classifier().booster_.model_to_string()
    checked(text)

    with pytest.raises(ValueError, match=sentence):
        checked(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("cat_boundaries=0 1", "cat_boundaries=1 0", "do not ascend"),
        ("cat_boundaries=0", "cat_boundaries=0 0", "cat_boundaries has"),
        ("cat_boundaries=0", "cat_boundaries=-1", "boundary of categories -1"),
        ("leaf_features=", "leaf_features=9 ", "leaf_features has"),
        ("is_linear=1", "is_linear=x", "is_linear is 'x', which is no whole number"),
    ],
)
def test_sets_of_categories_and_linear_leaves_are_checked(old: str, new: str, sentence: str) -> None:
    text = with_categories_and_linear_leaves().model_to_string()
    checked(text)
    assert old in text

    with pytest.raises(ValueError, match=sentence):
        checked(text.replace(old, new, 1))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_part_of_a_file_is_never_taken_for_the_whole(share: float) -> None:
    text = lightgbm_classifier().booster_.model_to_string().partition("end of trees")[0]

    with pytest.raises(ValueError):
        checked(text[: int(share * len(text))])


def test_an_iteration_that_lacks_a_class_is_found() -> None:
    text = lightgbm_classifier().booster_.model_to_string()
    text = text.replace("tree_sizes=", "sizes=").replace("Tree=14", "Trunk=14")

    with pytest.raises(ValueError, match="14 trees are no whole number of iterations of 3"):
        checked(text)


def test_a_file_of_before_version_3_is_read() -> None:
    text = lightgbm_classifier().booster_.model_to_string()
    old = text.partition("end of trees")[0] + "\nfeature importances:\nColumn_2=9\n"

    assert checked(old) == checked(text)
