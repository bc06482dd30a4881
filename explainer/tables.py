"""Explains predictions for the rows of a table: features are the players, the predicted class's score is the value.

A missing feature is at its baseline. All rows of a request are explained at once, so that the calls to the predictor
are few. Knows no gRPC; asks through PredictFn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from explainer.methods.game import Attributions, Coalitions, Method, Options, Values
from explainer.predict_fn import PredictFn
from explainer.table_request import MAX_ROWS, MAX_SAMPLES, Table, read_facts, read_input, read_integer, read_table
from mesh.errors import Unsupported
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Array
from mesh.v1 import explain_pb2

# Rows predicted for one explanation, over all its coalitions.
MAX_PREDICTIONS = 65_536


async def explain_table(
    request: oip.ModelInferRequest, method: Method, predict_fn: PredictFn, default_seed: int
) -> list[explain_pb2.Explanation]:
    """One explanation per row. Parameters of the request: `baseline`, `seed`, `num_samples`.

    Raises InvalidInput for a request that is no table, and what the method and the predictor raise.
    """
    tensor = read_input(request)
    seed = read_integer(request, "seed", default_seed, limit=2**63 - 1)
    num_samples = read_integer(request, "num_samples", 0, limit=MAX_SAMPLES)
    facts = read_facts(await predict_fn.config())
    table = read_table(tensor, request, facts)
    game = TableGame(table, predict_fn, facts.max_batch_size)
    await game.find_answers(facts.class_names)
    options = Options(seed=seed, max_coalitions=MAX_PREDICTIONS // len(table.rows), num_samples=num_samples)
    attributions = await method.attribute(game, options)
    return [_explanation(table, game.answers[row], attributions, row) for row in range(len(table.rows))]


class TableGame:
    """Implements explainer.methods.game.Game; one subject per row."""

    def __init__(self, table: Table, predict_fn: PredictFn, max_batch_size: int) -> None:
        self.answers: list[str] = []
        self._table = table
        self._predict_fn = predict_fn
        self._max_batch_size = max_batch_size
        self._output = ""
        self._columns: NDArray[np.intp] = np.zeros(0, dtype=np.intp)

    async def find_answers(self, class_names: list[str]) -> None:
        """Ask what the model predicts for the rows as they are: that is what `values` scores from then on.

        Raises Unsupported when the model has no floating-point output with one score, or one per class, for each row.
        """
        outputs = await self._infer(self._table.rows)
        self._output = _scored_output(outputs)
        scores = outputs[self._output]
        self._columns = _by_class(scores).argmax(axis=1)
        self.answers = [
            _answer(outputs, self._output, row, int(column), class_names) for row, column in enumerate(self._columns)
        ]

    @property
    def num_players(self) -> int:
        return len(self._table.features)

    async def values(self, coalitions: Coalitions) -> Values:
        """Score of each row's answer, with the features outside of the coalition at their baseline: [C, R]."""
        step = max(1, MAX_ROWS // len(self._table.rows))
        parts = [await self._values_of(coalitions[i : i + step]) for i in range(0, len(coalitions), step)]
        return np.concatenate(parts)

    async def _values_of(self, coalitions: Coalitions) -> Values:
        table = self._table
        variants = np.where(coalitions[:, None, :], table.rows[None], table.baseline)  # [C, R, P]
        outputs = await self._infer(variants.reshape(-1, self.num_players))
        scores = _by_class(outputs[self._output]).reshape(len(coalitions), len(table.rows), -1)  # [C, R, classes]
        return scores[:, np.arange(len(table.rows)), self._columns]

    async def _infer(self, rows: NDArray[np.float64]) -> dict[str, Array]:
        return await self._predict_fn.infer(self._table.name, self._table.datatype, rows, self._max_batch_size)


def _scored_output(outputs: Mapping[str, Array]) -> str:
    """The output that is explained: `probabilities`, else the first floating-point one that fits."""
    fitting = [
        name for name, array in outputs.items() if array.dtype.kind == "f" and array.ndim in (1, 2) and array.size
    ]
    if not fitting:
        raise Unsupported("the model has no floating-point output of shape [rows] or [rows, classes] to explain")
    return "probabilities" if "probabilities" in fitting else fitting[0]


def _by_class(scores: Array) -> NDArray[np.float64]:
    """[N] or [N, classes] as [N, classes]."""
    return scores.reshape(len(scores), -1).astype(np.float64)


def _answer(outputs: Mapping[str, Array], output: str, row: int, column: int, class_names: list[str]) -> str:
    """What the model says of a row: the name of its class, else its label, else the name of the explained output."""
    scores = outputs[output]
    if scores.ndim == 1 or scores.shape[1] == 1:
        return output
    if column < len(class_names):
        return class_names[column]
    label = outputs.get("label")
    if label is None or label.ndim != 1:
        return str(column)
    return label[row].decode(errors="replace") if isinstance(label[row], bytes) else str(label[row])


def _explanation(table: Table, answer: str, attributions: Attributions, row: int) -> explain_pb2.Explanation:
    explanation = explain_pb2.Explanation(
        attributions=[
            explain_pb2.Attribution(name=name, value=value)
            for name, value in zip(table.features, attributions.contributions[row].tolist(), strict=True)
        ],
        target=answer,
        score=attributions.score[row],
    )
    if attributions.base_score is not None:
        explanation.base_score = attributions.base_score[row]
    return explanation
