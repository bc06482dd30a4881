"""The scikit-learn runtime: answers as the library itself does, and refuses what is no model of its kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import SVC

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.runtimes import base
from predictor.runtimes.sklearn import SklearnRuntime

FEATURES, TARGETS = load_iris(return_X_y=True)


class EvilEstimator(LogisticRegression):
    """A type that comes from the file's author, not from scikit-learn."""


def artifact(path: Path, **options: str) -> base.ModelArtifact:
    return base.ModelArtifact("iris", "1", path, "0" * 64, options)


def folder_with(tmp_path: Path, model: Any, metadata: Any = None) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    skops.io.dump(model, folder / "model.skops")
    if metadata is not None:
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


async def loaded(path: Path, **options: str) -> SklearnRuntime:
    runtime = SklearnRuntime()
    await runtime.load(artifact(path, **options), lambda *progress: None, lambda *health: None)
    await runtime.warm()
    return runtime


def test_it_is_a_runtime() -> None:
    assert isinstance(SklearnRuntime, type)
    runtime: base.Runtime = SklearnRuntime()
    assert runtime is not None


async def test_answers_equal_the_library_s_own(iris_folder: Path) -> None:
    runtime = await loaded(iris_folder)
    library = skops.io.load(iris_folder / "model.skops")

    answer = await runtime.infer({"input": FEATURES})

    np.testing.assert_array_equal(answer["label"], library.predict(FEATURES))
    np.testing.assert_array_equal(answer["probabilities"], library.predict_proba(FEATURES))
    assert answer["label"].dtype == np.int64
    assert answer["probabilities"].shape == (150, 3)
    await runtime.unload()


async def test_metadata_names_features_classes_and_baseline(iris_folder: Path) -> None:
    metadata = (await loaded(iris_folder)).metadata

    assert metadata.inputs == (base.TensorSpec("input", "FP64", (-1, 4)),)
    assert [(spec.name, spec.datatype, spec.shape) for spec in metadata.outputs] == [
        ("label", "INT64", (-1,)),
        ("probabilities", "FP64", (-1, 3)),
    ]
    assert json.loads(metadata.parameters["class_names"]) == ["setosa", "versicolor", "virginica"]
    assert json.loads(metadata.parameters["feature_names"])[0] == "sepal length (cm)"
    np.testing.assert_allclose(json.loads(metadata.parameters["feature_baseline"]), FEATURES.mean(axis=0), atol=1e-5)


async def test_a_batch_of_nothing_gets_empty_outputs(iris_folder: Path) -> None:
    answer = await (await loaded(iris_folder)).infer({"input": np.empty((0, 4))})

    assert answer["label"].shape == (0,)
    assert answer["probabilities"].shape == (0, 3)


@pytest.mark.parametrize(
    "model", [RandomForestClassifier(5, random_state=0), HistGradientBoostingClassifier(max_iter=3)], ids=str
)
async def test_tree_ensembles_are_trusted(tmp_path: Path, model: Any) -> None:
    runtime = await loaded(folder_with(tmp_path, model.fit(FEATURES, TARGETS)))

    answer = await runtime.infer({"input": FEATURES})

    np.testing.assert_array_equal(answer["probabilities"], model.predict_proba(FEATURES))


async def test_classes_that_are_texts_come_as_bytes(tmp_path: Path) -> None:
    names = np.array(["setosa", "versicolor", "virginica"])[TARGETS]
    runtime = await loaded(folder_with(tmp_path, SVC().fit(FEATURES, names)))

    answer = await runtime.infer({"input": FEATURES[:2]})

    assert answer["label"].tolist() == [b"setosa", b"setosa"]
    assert "probabilities" not in answer


async def test_a_regressor_answers_with_values(tmp_path: Path) -> None:
    rows, values = load_diabetes(return_X_y=True)
    model = Ridge().fit(rows, values)
    runtime = await loaded(folder_with(tmp_path, model))

    answer = await runtime.infer({"input": rows})

    np.testing.assert_array_equal(answer["value"], model.predict(rows))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e308])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
async def test_rows_that_no_estimator_can_compute_with_are_the_caller_s_error(iris_folder: Path, value: float) -> None:
    runtime = await loaded(iris_folder)

    with pytest.raises(InvalidInput, match="NaN, infinity or a number beyond"):
        await runtime.infer({"input": np.full((1, 4), value)})


async def test_a_model_that_takes_nan_gets_it(tmp_path: Path) -> None:
    model = HistGradientBoostingClassifier(max_iter=3).fit(FEATURES, TARGETS)
    runtime = await loaded(folder_with(tmp_path, model))
    rows = np.full((1, 4), np.nan)

    answer = await runtime.infer({"input": rows})

    np.testing.assert_array_equal(answer["label"], model.predict(rows))


async def test_types_that_are_not_trusted_are_named_and_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, EvilEstimator(max_iter=500).fit(FEATURES, TARGETS))

    with pytest.raises(CorruptArtifact, match=r"types that are not trusted: .*EvilEstimator"):
        await loaded(folder)


@pytest.mark.parametrize("kept", [0, 10, 500, -40])
async def test_a_truncated_file_is_refused(tmp_path: Path, iris_folder: Path, kept: int) -> None:
    folder = shutil.copytree(iris_folder, tmp_path / "model")
    whole = (folder / "model.skops").read_bytes()
    (folder / "model.skops").write_bytes(whole[:kept])

    with pytest.raises(CorruptArtifact, match=r"model\.skops is truncated or no skops file"):
        await loaded(folder)


async def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    marker = tmp_path / "executed"
    # The opcodes of pickle for os.system("touch …").
    (folder / "model.skops").write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())

    with pytest.raises(CorruptArtifact):
        await loaded(folder)

    assert [path.name for path in tmp_path.iterdir()] == ["model"]


async def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"has none of model\.skops, model\.joblib"):
        await loaded(tmp_path)


async def test_something_that_is_no_estimator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match="holds a list, which is no fitted estimator"):
        await loaded(folder_with(tmp_path, [1, 2, 3]))


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"feature_names": ["one"]}, "'feature_names' has 1 entries; the model takes 4"),
        ({"feature_baseline": [1, 2, 3, "4"]}, "'feature_baseline' must be a list of numbers"),
        ({"class_names": ["a"]}, "'class_names' has 1 entries; the model has 3"),
        ([], "must hold a JSON object"),
    ],
)
async def test_metadata_that_does_not_fit_the_model_is_refused(tmp_path: Path, metadata: Any, sentence: str) -> None:
    folder = folder_with(tmp_path, LogisticRegression(max_iter=500).fit(FEATURES, TARGETS), metadata)

    with pytest.raises(CorruptArtifact, match=sentence):
        await loaded(folder)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_batch_size": "0"}, "option 'max_batch_size' is 0; it must be 1 to"),
        ({"max_batch_size": "many"}, "option 'max_batch_size' is 'many'; it must be of type int"),
        ({"threads": "2"}, "option 'threads' is unknown; known are max_batch_size, max_pending, num_threads"),
    ],
)
async def test_a_wrong_option_is_named(iris_folder: Path, options: dict[str, str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await loaded(iris_folder, **options)
