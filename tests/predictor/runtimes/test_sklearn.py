"""The scikit-learn runtime: answers as the library itself does, and refuses what is no model of its kind."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas
import pytest
import skops.io
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from mesh.errors import CorruptArtifact, InvalidInput, PermissionDenied
from predictor.runtimes import base
from predictor.runtimes.sklearn import SklearnRuntime

FEATURES, TARGETS = load_iris(return_X_y=True)


class EvilEstimator(LogisticRegression):
    """A type that comes from the file's author, not from scikit-learn."""


class ThreadCounter(RegressorMixin, BaseEstimator):
    """Predicts with how many threads it would compute."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs

    def fit(self, rows: Any, targets: Any = None) -> ThreadCounter:
        self.n_features_in_ = rows.shape[1]
        return self

    def predict(self, rows: Any) -> Any:
        return np.full(len(rows), float(self.n_jobs))


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


async def answer(runtime: SklearnRuntime, rows: Any) -> base.Arrays:
    return await runtime.infer({"input": np.ascontiguousarray(rows, dtype=np.float64)})


async def test_a_regressor_of_several_values(tmp_path: Path) -> None:
    targets = np.stack([FEATURES[:, 0] * 2, TARGETS.astype(float)], axis=1)
    model = Ridge().fit(FEATURES, targets)
    runtime = await loaded(folder_with(tmp_path, model))

    given = await answer(runtime, FEATURES)

    assert runtime.metadata.outputs == (base.TensorSpec("value", "FP64", (-1, 2)),)
    np.testing.assert_array_equal(given["value"], model.predict(FEATURES))


async def test_a_classifier_of_several_targets(tmp_path: Path) -> None:
    targets = np.stack([TARGETS, (FEATURES[:, 0] > 6).astype(int)], axis=1)
    model = RandomForestClassifier(5, random_state=0).fit(FEATURES, targets)
    runtime = await loaded(folder_with(tmp_path, model))

    given = await answer(runtime, FEATURES)

    assert [spec.shape for spec in runtime.metadata.outputs] == [(-1, 2), (-1, 3), (-1, 2)]
    np.testing.assert_array_equal(given["label"], model.predict(FEATURES))
    for target, probabilities in enumerate(model.predict_proba(FEATURES)):
        np.testing.assert_array_equal(given[f"probabilities_{target}"], probabilities)


async def test_several_labels_a_row(tmp_path: Path) -> None:
    targets = np.stack([TARGETS == 0, TARGETS > 0, FEATURES[:, 0] > 6], axis=1).astype(int)
    model = OneVsRestClassifier(LogisticRegression(max_iter=500)).fit(FEATURES, targets)
    runtime = await loaded(folder_with(tmp_path, model))

    given = await answer(runtime, FEATURES)

    np.testing.assert_array_equal(given["label"], model.predict(FEATURES))
    np.testing.assert_array_equal(given["probabilities"], model.predict_proba(FEATURES))


async def test_a_classifier_without_probabilities_has_its_decision(tmp_path: Path) -> None:
    model = LinearSVC().fit(FEATURES, TARGETS == 1)
    runtime = await loaded(folder_with(tmp_path, model))

    given = await answer(runtime, FEATURES)

    np.testing.assert_array_equal(given["decision"], model.decision_function(FEATURES))
    assert given["label"].tolist() == model.predict(FEATURES).astype(int).tolist()
    assert given["decision"].shape == (150,)


async def test_an_outlier_detector(tmp_path: Path) -> None:
    model = IsolationForest(n_estimators=5, random_state=0).fit(FEATURES)
    runtime = await loaded(folder_with(tmp_path, model))

    given = await answer(runtime, FEATURES)

    np.testing.assert_array_equal(given["label"], model.predict(FEATURES))
    np.testing.assert_array_equal(given["decision"], model.decision_function(FEATURES))


@pytest.mark.parametrize("model", [KMeans(3, n_init=1, random_state=0), GaussianMixture(3, random_state=0)], ids=str)
async def test_a_clusterer_has_the_cluster_as_label(tmp_path: Path, model: Any) -> None:
    runtime = await loaded(folder_with(tmp_path, model.fit(FEATURES)))

    given = await answer(runtime, FEATURES)

    assert given["label"].dtype == np.int64
    np.testing.assert_array_equal(given["label"], model.predict(FEATURES))
    if isinstance(model, GaussianMixture):
        np.testing.assert_array_equal(given["probabilities"], model.predict_proba(FEATURES))


@pytest.mark.parametrize(
    "model", [PCA(2), make_pipeline(KBinsDiscretizer(3), StandardScaler(with_mean=False))], ids=str
)
async def test_a_transformer_answers_with_what_it_makes(tmp_path: Path, model: Any) -> None:
    made = model.fit_transform(FEATURES)
    runtime = await loaded(folder_with(tmp_path, model))

    given = await answer(runtime, FEATURES)

    np.testing.assert_allclose(given["value"], made.toarray() if hasattr(made, "toarray") else made)


async def test_columns_have_the_names_that_the_model_was_fitted_with(tmp_path: Path) -> None:
    frame = pandas.DataFrame(FEATURES, columns=["a", "b", "c", "d"])
    model = make_pipeline(ColumnTransformer([("scaled", StandardScaler(), ["d", "a"])]), LogisticRegression())
    runtime = await loaded(folder_with(tmp_path, model.fit(frame, TARGETS)))

    given = await answer(runtime, FEATURES)

    np.testing.assert_array_equal(given["probabilities"], model.predict_proba(frame))
    assert json.loads(runtime.metadata.parameters["feature_names"]) == ["a", "b", "c", "d"]


def shop() -> tuple[pandas.DataFrame, Any]:
    """Rows with a text, an integer and a truth, and a pipeline that was fitted with them."""
    frame = pandas.DataFrame(
        {"town": ["Ulm", "Bonn", "Ulm", "Bonn"], "age": [1, 2, 3, 4], "open": [True, False, True, True]}
    )
    columns = ColumnTransformer([("town", OneHotEncoder(), ["town"])], remainder="passthrough")
    return frame, make_pipeline(columns, LogisticRegression()).fit(frame, ["no", "yes", "no", "no"])


SHOP = {"feature_datatypes": ["BYTES", "INT64", "BOOL"]}


async def test_columns_of_several_datatypes_are_inputs_each(tmp_path: Path) -> None:
    frame, model = shop()
    runtime = await loaded(folder_with(tmp_path, model, SHOP))
    towns = np.array([town.encode() for town in frame["town"]], dtype=object)
    rows = {"town": towns, "age": frame["age"].to_numpy(), "open": frame["open"].to_numpy()}

    given = await runtime.infer(rows)

    assert [(spec.name, spec.datatype, spec.shape) for spec in runtime.metadata.inputs] == [
        ("town", "BYTES", (-1,)), ("age", "INT64", (-1,)), ("open", "BOOL", (-1,))
    ]  # fmt: skip
    np.testing.assert_array_equal(given["probabilities"], model.predict_proba(frame))
    assert given["label"].tolist() == [label.encode() for label in model.predict(frame)]


@pytest.mark.parametrize(
    ("town", "sentence"),
    [
        (b"Bad Ems", r"does not take these rows: Found unknown categories"),
        (b"\xff", "'town' has an element that is no"),
    ],
)
async def test_a_text_that_the_model_does_not_know_is_the_caller_s_error(
    tmp_path: Path, town: bytes, sentence: str
) -> None:
    runtime = await loaded(folder_with(tmp_path, shop()[1], SHOP))
    rows = {"town": np.array([town], dtype=object), "age": np.array([1]), "open": np.array([True])}

    with pytest.raises(InvalidInput, match=sentence):
        await runtime.infer(rows)


async def test_datatypes_without_names_are_refused(tmp_path: Path) -> None:
    model = LogisticRegression(max_iter=500).fit(FEATURES, TARGETS)

    with pytest.raises(CorruptArtifact, match="'feature_datatypes' wants a name of its own for each of 4 features"):
        await loaded(folder_with(tmp_path, model, {"feature_datatypes": ["FP64"] * 4}))


async def test_a_model_that_was_trained_with_many_threads_computes_with_one(tmp_path: Path) -> None:
    joblib.dump(make_pipeline(StandardScaler(), ThreadCounter(n_jobs=-1)).fit(FEATURES), tmp_path / "model.joblib")
    runtime = SklearnRuntime()
    trusted = base.ModelArtifact("iris", "1", tmp_path, "0" * 64, may_run_code=True)
    await runtime.load(trusted, lambda *_: None, lambda *_: None)

    assert (await answer(runtime, FEATURES[:2]))["value"].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["model.joblib", "model.pkl", "model.pickle"])
async def test_a_pickle_loads_where_the_operator_trusts_its_code(tmp_path: Path, name: str) -> None:
    model = EvilEstimator(max_iter=500).fit(FEATURES, TARGETS)
    joblib.dump(model, tmp_path / name) if name.endswith("joblib") else (tmp_path / name).write_bytes(
        pickle.dumps(model)
    )
    runtime = SklearnRuntime()
    trusted = base.ModelArtifact("iris", "1", tmp_path, "0" * 64, may_run_code=True)
    await runtime.load(trusted, lambda *_: None, lambda *_: None)

    given = await answer(runtime, FEATURES)

    np.testing.assert_array_equal(given["probabilities"], model.predict_proba(FEATURES))
    assert runtime.metadata.platform == "sklearn_pickle"
    with pytest.raises(PermissionDenied, match="trust_model_code"):
        await loaded(tmp_path)


@pytest.mark.parametrize("as_file", [True, False])
async def test_a_pickle_that_is_not_trusted_is_not_opened(tmp_path: Path, as_file: bool) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "model" / "model.pkl"
    path.parent.mkdir()
    path.write_bytes(f"cos\nsystem\n(S'touch {marker}'\ntR.".encode())

    with pytest.raises(PermissionDenied, match=r"model\.pkl is a pickle, which runs .*trust_model_code"):
        await loaded(path if as_file else path.parent)

    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x05junk", pickle.dumps(LogisticRegression)[:-5]], ids=repr)
async def test_a_broken_pickle_is_called_corrupt(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.pkl").write_bytes(content)
    runtime = SklearnRuntime()
    trusted = base.ModelArtifact("iris", "1", tmp_path, "0" * 64, may_run_code=True)

    with pytest.raises(CorruptArtifact, match=r"model\.pkl cannot be read"):
        await runtime.load(trusted, lambda *_: None, lambda *_: None)
