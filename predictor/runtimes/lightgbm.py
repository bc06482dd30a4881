"""LightGBM models in the library's own text format, which `Booster.save_model` writes.

Every output equals what `LGBMClassifier`, `LGBMRegressor` or `LGBMRanker` with that model answers. The outputs
depend on the model's objective alone. What the tensors mean to a client is in docs/runtimes.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from mesh.errors import CorruptArtifact
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.in_process import ComputeOptions, InProcessRuntime
from predictor.runtimes.lightgbm_text import BINARY, MULTICLASS, Header, checked
from predictor.runtimes.model_file import find_model_file
from predictor.runtimes.table_metadata import TableMetadata, read_table_metadata
from predictor.runtimes.trial import try_loading

SUFFIXES = (".txt", ".lgb", ".bst")


class LightgbmRuntime(InProcessRuntime):
    """One input `input`, FP64 [-1, num_features], in which NaN is a missing value, and a categorical feature its code.

    Classifiers answer `label` INT64 [n], the index of the class, and `probabilities` FP64 [n, num_classes]; all others
    answer `value`: FP64 [n], or [n, num_values] for a custom objective with several.
    """

    async def _open(self, artifact: ModelArtifact, options: ComputeOptions, pool: ComputePool) -> BoosterModel:
        path = find_model_file(artifact.path, SUFFIXES)
        memory_bytes = await try_loading("predictor.runtimes.lightgbm:try_booster", path)
        facts = read_table_metadata(artifact.path)
        return await pool.run(lambda: BoosterModel(*read_booster(path), facts, options, memory_bytes))


class BoosterModel:
    """Implements in_process.OpenModel."""

    def __init__(
        self,
        booster: lightgbm.Booster,
        header: Header,
        facts: TableMetadata,
        options: ComputeOptions,
        memory_bytes: int = 0,
    ) -> None:
        self.memory_bytes = max(memory_bytes, 1)
        self._booster = booster
        self._num_threads = options.num_threads
        self._header = header
        names = header.feature_names
        num_features = len(names)
        # The library's own names, for data that had none, say nothing.
        is_named = names != tuple(f"Column_{index}" for index in range(num_features))
        facts = facts.named(names if is_named else ())
        facts.check(num_features=num_features, num_classes=header.num_classes)
        self._metadata = ModelMetadata(
            platform="lightgbm",
            backend="lightgbm",
            inputs=(TensorSpec("input", "FP64", (-1, num_features)),),
            outputs=self._outputs(num_features),
            max_batch_size=options.max_batch_size,
            parameters={**facts.parameters(), "objective": header.objective},
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
        if self._header.objective == BINARY:
            return {
                "label": (predicted > 0.5).astype(np.int64),
                "probabilities": np.stack([1 - predicted, predicted], axis=1),
            }
        if self._header.objective in MULTICLASS:
            return {"label": predicted.argmax(axis=1), "probabilities": predicted}
        return {"value": predicted}

    def _outputs(self, num_features: int) -> tuple[TensorSpec, ...]:
        """The answers to one row are those to all, as far as names, datatypes and widths go."""
        answer = self._answer(np.zeros((1, num_features)))
        return tuple(
            TensorSpec(name, "INT64" if name == "label" else "FP64", (-1, *array.shape[1:]))
            for name, array in answer.items()
        )


def read_booster(path: Path) -> tuple[lightgbm.Booster, Header]:
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
        text, header = checked(text)
        return lightgbm.Booster(model_str=text), header
    except (lightgbm.basic.LightGBMError, ValueError) as error:
        raise CorruptArtifact(f"{path.name} is truncated or malformed: {str(error)[:200]}") from None


def try_booster(path: Path) -> BoosterModel:
    """What the trial does: read the file, predict some rows. Raises CorruptArtifact."""
    model = BoosterModel(*read_booster(path), TableMetadata(), ComputeOptions())
    num_features = model.metadata.inputs[0].shape[1]
    for value in (np.nan, -1e300, 1e300):
        model.predict({"input": np.full((1, num_features), value)})
    return model
