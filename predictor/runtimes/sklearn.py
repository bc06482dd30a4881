"""Scikit-learn estimators: classifiers, regressors, clusterers, outlier detectors, transformers, pipelines of them.

Which outputs an estimator has follows from what it can do. What the tensors mean to a client is in docs/runtimes.md;
how a file is read, and what is trusted in it, is `sklearn_file`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_clusterer, is_outlier_detector

from mesh.errors import CorruptArtifact, InvalidInput, Unavailable
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.in_process import ComputeOptions, InProcessRuntime, as_bytes, blank
from predictor.runtimes.model_file import find_model_file
from predictor.runtimes.sklearn_file import PICKLE_SUFFIXES, SUFFIXES, read_estimator
from predictor.runtimes.table_metadata import METADATA_FILE, TableMetadata, read_table_metadata

# Estimators may compute with single precision, or overflow on their way; most take larger numbers all the same.
LARGEST_NUMBER = float(np.finfo(np.float32).max)

# What a whole estimator makes of rows, which are an array or a data frame; scikit-learn has no types.
Answer = Callable[[Any], NDArray[Any]]


class SklearnRuntime(InProcessRuntime):
    """One input `input`, FP64 [-1, num_features], or one [-1] for each column when metadata.json has their datatypes.

    Outputs, for n rows:
    classifiers: `label` (INT64, or BYTES when the classes are no integers) [n], or [n, num_targets] for several; and
        `probabilities` FP64 [n, num_classes], of several targets `probabilities_0` and so on; without probabilities,
        `decision` FP64 [n] or [n, num_classes].
    outlier detectors: `label` INT64 [n], 1 or -1, and `decision` FP64 [n]. Clusterers: `label` INT64 [n].
    regressors, and by `transform` what cannot predict: `value` FP64 [n] or [n, num_values].
    """

    requests_at_once = True

    async def _open(self, artifact: ModelArtifact, options: ComputeOptions, pool: ComputePool) -> EstimatorModel:
        def read() -> EstimatorModel:
            path = find_model_file(artifact.path, SUFFIXES)
            model, size_bytes = read_estimator(path, may_run_code=artifact.may_run_code)
            form = "pickle" if path.suffix in PICKLE_SUFFIXES else "skops"
            facts = read_table_metadata(artifact.path)
            return EstimatorModel(model, facts, options.max_batch_size, f"sklearn_{form}", size_bytes)

        return await pool.run(read)


@dataclass(frozen=True, slots=True)
class _Output:
    spec: TensorSpec
    answer: Answer


class EstimatorModel:
    """Implements in_process.OpenModel. Its `predict` may run in several threads."""

    def __init__(
        self, estimator: Any, facts: TableMetadata, max_batch_size: int, platform: str, memory_bytes: int
    ) -> None:
        self.memory_bytes = max(memory_bytes, 1)
        self._estimator = estimator
        self._rows = _Rows(estimator, facts)
        classes = getattr(estimator, "classes_", None)
        facts = facts.named(self._rows.names)
        facts.check(
            num_features=int(estimator.n_features_in_),
            num_classes=0 if classes is None or isinstance(classes, list) else len(classes),
        )
        _use_one_thread(estimator)
        row = self._rows.example(facts.feature_baseline)
        self._outputs = [
            _Output(TensorSpec(name, datatype, (-1, *_width(answer, row))), answer)
            for name, datatype, answer in _answers(estimator)
        ]
        self.metadata = ModelMetadata(
            platform=platform,
            backend="sklearn",
            inputs=self._rows.inputs,
            outputs=tuple(output.spec for output in self._outputs),
            max_batch_size=max_batch_size,
            parameters=facts.parameters(),
        )

    def predict(self, inputs: Arrays) -> Arrays:
        rows = self._rows.of(inputs)
        try:
            return {output.spec.name: _as_tensor(output.answer(rows), output.spec) for output in self._outputs}
        except ValueError as error:
            raise self._refusal(inputs, error) from None

    def _refusal(self, inputs: Arrays, error: ValueError) -> Exception:
        """InvalidInput when the rows are to blame, else `error` itself."""
        for name, array in inputs.items():
            if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.abs(array).max() <= LARGEST_NUMBER):
                return InvalidInput(
                    f"input '{name}' holds NaN, infinity or a number beyond {LARGEST_NUMBER:.3g}, "
                    "which this model does not take",
                    field=name,
                )
        if any(array.dtype.kind == "O" for array in inputs.values()):  # a text that the model was not fitted with
            return InvalidInput(f"the model does not take these rows: {str(error)[:300]}", field="inputs")
        return error


class _Rows:
    """Inputs as the estimator was fitted: with a data frame whose columns have names, or with an array without."""

    def __init__(self, estimator: Any, facts: TableMetadata) -> None:
        num_features = int(estimator.n_features_in_)
        self.names: tuple[str, ...] = tuple(str(name) for name in getattr(estimator, "feature_names_in_", ()))
        self._pandas = _pandas() if self.names else None
        self._by_column = bool(facts.feature_datatypes)
        self.inputs: tuple[TensorSpec, ...] = (TensorSpec("input", "FP64", (-1, num_features)),)
        if self._by_column:
            names = self.names or facts.feature_names
            if not len(names) == len(set(names)) == len(facts.feature_datatypes) == num_features:
                raise CorruptArtifact(
                    f"{METADATA_FILE}: 'feature_datatypes' wants a name of its own for each of {num_features} features"
                )
            columns = zip(names, facts.feature_datatypes, strict=True)
            self.inputs = tuple(TensorSpec(name, datatype, (-1,)) for name, datatype in columns)

    def of(self, inputs: Arrays) -> Any:
        """[n, num_features], or a data frame of n rows."""
        if not self._by_column:
            rows = inputs["input"]
            return rows if self._pandas is None else self._pandas.DataFrame(rows, columns=self.names)
        columns = {spec.name: _column(spec, inputs[spec.name]) for spec in self.inputs}
        if self._pandas is not None:
            return self._pandas.DataFrame(columns)
        return np.column_stack([column.astype(object) for column in columns.values()])

    def example(self, baseline: tuple[float, ...]) -> Any:
        """One row: the baseline if there is one, else zeros and empty texts."""
        if baseline and not self._by_column:
            return self.of({"input": np.array([baseline])})
        return self.of({spec.name: blank(spec) for spec in self.inputs})


def _answers(estimator: Any) -> Iterator[tuple[str, str, Answer]]:
    """(output, datatype, how it is computed) of everything that the estimator can say."""
    if not hasattr(estimator, "predict"):
        yield "value", "FP64", estimator.transform
        return
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):  # of each target
        yield "label", _label_datatype(np.concatenate(classes)), estimator.predict
        if hasattr(estimator, "predict_proba"):
            for target in range(len(classes)):
                yield f"probabilities_{target}", "FP64", _of_target(estimator.predict_proba, target)
        return
    has_probabilities = hasattr(estimator, "predict_proba")
    if classes is None and not (has_probabilities or is_clusterer(estimator) or is_outlier_detector(estimator)):
        yield "value", "FP64", estimator.predict
        return
    yield "label", "INT64" if classes is None else _label_datatype(classes), estimator.predict
    if has_probabilities:
        yield "probabilities", "FP64", estimator.predict_proba
    elif hasattr(estimator, "decision_function"):
        yield "decision", "FP64", estimator.decision_function


def _of_target(answer: Callable[[Any], list[NDArray[Any]]], target: int) -> Answer:
    return lambda rows: answer(rows)[target]


def _label_datatype(classes: Any) -> str:
    return "INT64" if np.asarray(classes).dtype.kind in "iub" else "BYTES"


def _width(answer: Answer, row: Any) -> tuple[int, ...]:
    """What follows the batch in the shape of `answer`; nothing for a model that does not take the example."""
    try:
        return tuple(_dense(answer(row)).shape[1:])
    except ValueError:
        return ()


def _as_tensor(answer: Any, spec: TensorSpec) -> NDArray[Any]:
    array = _dense(answer)
    if spec.datatype == "BYTES":
        return as_bytes(array.reshape(-1)).reshape(array.shape)
    return array.astype(np.int64 if spec.datatype == "INT64" else np.float64)


def _dense(answer: Any) -> NDArray[Any]:
    return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)


def _column(spec: TensorSpec, column: NDArray[Any]) -> NDArray[Any]:
    """[n]; texts are texts again."""
    if spec.datatype != "BYTES":
        return column
    texts = np.empty(column.shape, dtype=object)
    try:
        texts[:] = [element.decode() for element in column]
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{spec.name}' has an element that is no UTF-8", field=spec.name) from None
    return texts


def _use_one_thread(estimator: Any) -> None:
    """Threads are the pool's: what the estimator was trained with (n_jobs=-1, say) would multiply them."""
    if hasattr(estimator, "get_params"):
        names = [name for name in estimator.get_params() if name == "n_jobs" or name.endswith("__n_jobs")]
        estimator.set_params(**dict.fromkeys(names, 1))


def _pandas() -> Any:
    try:
        import pandas  # here: it takes half a second, and most models want no data frame
    except ImportError:
        raise Unavailable(
            "the model was fitted with named columns, which takes the package 'pandas', which is not installed; "
            "install meshserve[predictor]"
        ) from None
    return pandas
