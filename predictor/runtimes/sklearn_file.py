"""Reads a scikit-learn estimator from a file: skops, of which only types on the list below are ever made; or a pickle.

What is in a pickle runs as code when it is read, so pickle and joblib files are opened only where the operator says so.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import joblib

from mesh.errors import CorruptArtifact, PermissionDenied
from mesh.logs import get_logger
from predictor.runtimes.sklearn_trees import check_trees
from predictor.runtimes.skops_io import UntrustedTypesFoundException, get_untrusted_types, load

log = get_logger(__name__)

PICKLE_SUFFIXES = (".joblib", ".pickle", ".pkl")
SUFFIXES = (".skops", *PICKLE_SUFFIXES)
MAX_UNPACKED_BYTES = 2 << 30

# What skops does not trust by itself and common estimators hold: extension types of scikit-learn and numpy.
TRUSTED_TYPES = (
    "numpy.dtype",
    "sklearn._loss.loss.HalfTweedieLossIdentity",
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
    "sklearn.utils._bunch.Bunch",
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


def read_estimator(path: Path, *, may_run_code: bool) -> tuple[Any, int]:
    """The fitted estimator in the file, and roughly the bytes that it takes.

    Raises CorruptArtifact for a broken file and for types that are not trusted, and PermissionDenied for a pickle that
    is not; then nothing of it has run.
    """
    if path.suffix in PICKLE_SUFFIXES:
        if not may_run_code:
            raise PermissionDenied(
                f"{path.name} is a pickle, which runs its author's code when it is read; save the model with skops, or "
                "let the operator trust its every author with the predictor's setting trust_model_code"
            )
        model, size_bytes = _read_pickle(path), path.stat().st_size
    else:
        model, size_bytes = _read_skops(path)
    if not (hasattr(model, "predict") or hasattr(model, "transform")) or not hasattr(model, "n_features_in_"):
        raise CorruptArtifact(f"{path.name} holds a {type(model).__name__}, which is no fitted estimator")
    try:
        check_trees(model)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise CorruptArtifact(f"{path.name} is malformed: {error}") from None
    return model, size_bytes


def _read_pickle(path: Path) -> Any:
    try:
        return joblib.load(path)
    except Exception as error:  # the file's own code runs: whatever it raises comes out here
        log.warning("pickle_not_read", file=path.name, exc_info=error)
        raise CorruptArtifact(f"{path.name} cannot be read ({type(error).__name__}: {str(error)[:200]})") from None


def _read_skops(path: Path) -> tuple[Any, int]:
    try:
        size_bytes = _unpacked_bytes(path)
        if size_bytes > MAX_UNPACKED_BYTES:
            raise CorruptArtifact(f"{path.name} unpacks to {size_bytes} bytes; at most {MAX_UNPACKED_BYTES}")
        untrusted = sorted(set(get_untrusted_types(file=path)) - set(TRUSTED_TYPES))
        if untrusted:
            raise _not_trusted(path, ", ".join(untrusted))
        return load(path, trusted=list(TRUSTED_TYPES)), size_bytes
    except FileNotFoundError:
        raise CorruptArtifact(f"there is no file {path.name}") from None
    except UntrustedTypesFoundException as error:
        raise _not_trusted(path, str(error)) from None
    except _MALFORMED as error:
        raise CorruptArtifact(f"{path.name} is truncated or no skops file ({type(error).__name__})") from error


def _unpacked_bytes(path: Path) -> int:
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _not_trusted(path: Path, types: str) -> CorruptArtifact:
    return CorruptArtifact(f"{path.name} holds types that are not trusted: {types}")
