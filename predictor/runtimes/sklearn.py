"""Scikit-learn models, saved with skops: never pickle. Only types on the list below are ever made from a file.

A model is a folder with `model.skops` and, if wanted, `metadata.json` with `feature_names`, `class_names` and
`feature_baseline` (a row to compare with, for explanations: usually the training means).
"""

from __future__ import annotations

import asyncio
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.options import read_options
from predictor.runtimes.skops_io import UntrustedTypesFoundException, get_untrusted_types, load

MODEL_FILE = "model.skops"
METADATA_FILE = "metadata.json"
MAX_UNPACKED_BYTES = 2 << 30
MAX_METADATA_BYTES = 1 << 20
# Estimators may compute with single precision, or overflow on their way; most take larger numbers all the same.
LARGEST_NUMBER = float(np.finfo(np.float32).max)

# What skops does not trust by itself and common estimators hold: extension types of scikit-learn and numpy.
TRUSTED_TYPES = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
)

# What a file that is no skops file, or only a part of one, makes zipfile, json, numpy and skops raise.
_MALFORMED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    ImportError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class SklearnOptions:
    """max_batch_size: rows in one request. num_threads, max_pending: of the compute pool."""

    max_batch_size: int = 4096
    num_threads: int = 1
    max_pending: int = 256

    def __post_init__(self) -> None:
        for name, high in (("max_batch_size", 1 << 20), ("num_threads", 64), ("max_pending", 1 << 16)):
            if not 1 <= getattr(self, name) <= high:
                raise InvalidInput(f"option '{name}' is {getattr(self, name)}; it must be 1 to {high}", field=name)


class SklearnRuntime:
    """A classifier or regressor with one input `input`, FP64 [-1, num_features].

    Classifiers answer `label` (INT64 [n], or BYTES when the classes are texts) and, where they have them,
    `probabilities` FP64 [n, num_classes]; all others answer `value` FP64 [n].
    """

    def __init__(self) -> None:
        self._model: Any = None  # an estimator; scikit-learn has no types
        self._metadata: ModelMetadata | None = None
        self._pool: ComputePool | None = None
        self._memory_bytes = 0

    @property
    def metadata(self) -> ModelMetadata:
        assert self._metadata is not None, "load() comes first"
        return self._metadata

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        options = read_options(artifact.options, SklearnOptions)
        self._pool = ComputePool(
            f"model '{artifact.name}'", num_threads=options.num_threads, max_pending=options.max_pending
        )
        progress("load", 0, 1)
        self._model, parameters = await self._pool.run(lambda: _read_folder(artifact.path))
        self._metadata = _metadata_of(self._model, options.max_batch_size, parameters)
        self._memory_bytes = await asyncio.to_thread(_unpacked_bytes, artifact.path / MODEL_FILE)
        progress("load", 1, 1)

    async def warm(self) -> None:
        num_features = self.metadata.inputs[0].shape[1]
        await self.infer({"input": np.zeros((1, num_features))})

    async def infer(self, inputs: Arrays) -> Arrays:
        assert self._pool is not None, "load() comes first"
        rows = inputs["input"]
        if len(rows) == 0:
            return self._answer_to_nothing()
        return await self._pool.run(lambda: self._predict(rows))

    async def unload(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._model = None

    def _predict(self, rows: NDArray[np.float64]) -> Arrays:
        """rows: [n, num_features]."""
        try:
            return {spec.name: self._output(spec, rows) for spec in self.metadata.outputs}
        except ValueError:
            if np.isfinite(rows).all() and np.abs(rows).max() <= LARGEST_NUMBER:
                raise
            raise InvalidInput(
                f"input 'input' holds NaN, infinity or a number beyond {LARGEST_NUMBER:.3g}, "
                "which this model does not take",
                field="input",
            ) from None

    def _output(self, spec: TensorSpec, rows: NDArray[np.float64]) -> NDArray[Any]:
        if spec.name == "probabilities":
            return np.asarray(self._model.predict_proba(rows), dtype=np.float64)  # [n, num_classes]
        predicted = np.asarray(self._model.predict(rows))  # [n]
        if spec.datatype == "BYTES":
            return np.array([str(label).encode() for label in predicted], dtype=object)
        return predicted.astype(np.int64 if spec.datatype == "INT64" else np.float64)

    def _answer_to_nothing(self) -> Arrays:
        dtypes: dict[str, Any] = {"INT64": np.int64, "FP64": np.float64, "BYTES": object}
        return {spec.name: np.empty((0, *spec.shape[1:]), dtypes[spec.datatype]) for spec in self.metadata.outputs}


def _read_folder(folder: Path) -> tuple[Any, dict[str, list[Any]]]:
    if not folder.is_dir():
        raise CorruptArtifact(f"a scikit-learn model is a folder with {MODEL_FILE}; '{folder.name}' is no folder")
    model = _read_model(folder / MODEL_FILE)
    return model, _read_metadata(folder / METADATA_FILE, int(model.n_features_in_))


def _read_model(path: Path) -> Any:
    """The estimator in a skops file. Raises CorruptArtifact for a broken file and for types that are not trusted."""
    try:
        unpacked_bytes = _unpacked_bytes(path)
        if unpacked_bytes > MAX_UNPACKED_BYTES:
            raise CorruptArtifact(f"{path.name} unpacks to {unpacked_bytes} bytes; at most {MAX_UNPACKED_BYTES}")
        untrusted = sorted(set(get_untrusted_types(file=path)) - set(TRUSTED_TYPES))
        if untrusted:
            raise _not_trusted(path, ", ".join(untrusted))
        model = load(path, trusted=list(TRUSTED_TYPES))
    except FileNotFoundError:
        raise CorruptArtifact(f"the model folder '{path.parent.name}' has no {path.name}") from None
    except UntrustedTypesFoundException as error:
        raise _not_trusted(path, str(error)) from None
    except _MALFORMED as error:
        raise CorruptArtifact(f"{path.name} is truncated or no skops file ({type(error).__name__})") from error
    if not hasattr(model, "predict") or not hasattr(model, "n_features_in_"):
        raise CorruptArtifact(f"{path.name} holds a {type(model).__name__}, which is no fitted estimator")
    return model


def _unpacked_bytes(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _not_trusted(path: Path, types: str) -> CorruptArtifact:
    return CorruptArtifact(f"{path.name} holds types that are not trusted: {types}")


def _read_metadata(path: Path, num_features: int) -> dict[str, list[Any]]:
    """The lists of metadata.json, checked against the model; empty when there is no such file."""
    try:
        if path.stat().st_size > MAX_METADATA_BYTES:
            raise CorruptArtifact(f"{path.name} is larger than {MAX_METADATA_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise CorruptArtifact(f"{path.name} is no JSON: {error}") from None
    if not isinstance(content, dict):
        raise CorruptArtifact(f"{path.name} must hold a JSON object")
    lists: dict[str, list[Any]] = {}
    for name, kinds in (("feature_names", {str}), ("feature_baseline", {int, float}), ("class_names", {str})):
        values = content.get(name)
        if values is None:
            continue
        if not isinstance(values, list) or not {type(value) for value in values} <= kinds:
            raise CorruptArtifact(f"{path.name}: '{name}' must be a list of {'texts' if str in kinds else 'numbers'}")
        if name != "class_names" and len(values) != num_features:
            raise CorruptArtifact(
                f"{path.name}: '{name}' has {len(values)} entries; the model takes {num_features} features"
            )
        lists[name] = values
    return lists


def _metadata_of(model: Any, max_batch_size: int, lists: Mapping[str, list[Any]]) -> ModelMetadata:
    outputs = [TensorSpec("value", "FP64", (-1,))]
    classes = getattr(model, "classes_", None)
    if classes is not None:
        is_integer = np.asarray(classes).dtype.kind in "iub"
        outputs = [TensorSpec("label", "INT64" if is_integer else "BYTES", (-1,))]
        if hasattr(model, "predict_proba"):
            outputs.append(TensorSpec("probabilities", "FP64", (-1, len(classes))))
        class_names = lists.get("class_names", [])
        if class_names and len(class_names) != len(classes):
            raise CorruptArtifact(
                f"{METADATA_FILE}: 'class_names' has {len(class_names)} entries; the model has {len(classes)} classes"
            )
    return ModelMetadata(
        platform="sklearn_skops",
        backend="sklearn",
        inputs=(TensorSpec("input", "FP64", (-1, int(model.n_features_in_))),),
        outputs=tuple(outputs),
        max_batch_size=max_batch_size,
        parameters={name: json.dumps(values) for name, values in lists.items()},
    )
