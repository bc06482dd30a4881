"""What an explanation is made of: the deployment's say, a method, a game of the right kind, bounds around it all.

Takes and gives the messages of `mesh.v1`; knows no server and no channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from explainer.methods import METHODS
from explainer.methods.game import Method
from explainer.metrics import ExplainerMetrics
from explainer.predict_fn import BatchLimits, PredictFn
from explainer.tables import explain_table
from explainer.texts import explain_text
from mesh import context
from mesh.errors import DeadlineExceeded, InvalidInput, NotFound, Overloaded
from mesh.plugins import load
from mesh.pool import EndpointPool
from mesh.v1 import explain_pb2
from mesh.v1.registry_pb2 import Deployment

_DEFAULT_METHODS = {"infer": "shapley", "text": "leave_one_out"}


class Explanations:
    """Makes at most `max_running` explanations at a time."""

    def __init__(
        self, pool: EndpointPool, limits: BatchLimits, metrics: ExplainerMetrics, *, max_running: int, seed: int
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._metrics = metrics
        self._max_running = max_running
        self._num_running = 0
        self._seed = seed

    async def explain(self, request: explain_pb2.ExplainRequest) -> explain_pb2.ExplainResponse:
        """Raises InvalidInput, ModelNotFound, NotFound (no explainer), Overloaded, DeadlineExceeded; what predictors
        answer passes on."""
        deployment = self._pool.deployment(request.model_name)
        if not deployment.HasField("explainer"):
            raise NotFound(f"deployment '{deployment.name}' has no explainer", field="model_name")
        subject = request.WhichOneof("subject")
        if subject is None:
            raise InvalidInput("the request has no subject; set infer or text", field="subject")
        name = _method_name(request, deployment, subject)
        method: Method = load(METHODS, name, "explanation method")()
        predict_fn = PredictFn(self._pool, deployment.name, request.model_version, self._limits)
        with self._counted(deployment.name, name, predict_fn):
            explanations = await self._within_deadline(request, method, predict_fn)
        return explain_pb2.ExplainResponse(
            model_name=deployment.name,
            model_version=predict_fn.model_version,
            method=name,
            explanations=explanations,
            predictor_calls=predict_fn.num_calls,
        )

    async def _within_deadline(
        self, request: explain_pb2.ExplainRequest, method: Method, predict_fn: PredictFn
    ) -> list[explain_pb2.Explanation]:
        """The deadline holds for all calls together, also where the caller set none."""
        timeout_s = context.remaining_s(self._limits.timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                if request.HasField("infer"):
                    return await explain_table(request.infer, method, predict_fn, self._seed)
                return [await explain_text(request.text, method, predict_fn, self._seed)]
        except TimeoutError:
            raise DeadlineExceeded(
                f"the explanation was not ready within {timeout_s:.3g} s, after {predict_fn.num_calls} predictor calls"
            ) from None

    @contextmanager
    def _counted(self, model_name: str, method: str, predict_fn: PredictFn) -> Iterator[None]:
        if self._num_running >= self._max_running:
            raise Overloaded(f"{self._max_running} explanations are being made; no more are taken now")
        self._num_running += 1
        try:
            with self._metrics.running.track_inprogress(), self._metrics.duration.labels(model_name, method).time():
                yield
        finally:
            self._num_running -= 1
            self._metrics.predictor_calls.labels(model_name, method).inc(predict_fn.num_calls)


def _method_name(request: explain_pb2.ExplainRequest, deployment: Deployment, subject: str) -> str:
    """The request's choice, else the deployment's, else the default for the subject."""
    name = request.method or deployment.explainer.method or _DEFAULT_METHODS[subject]
    if name not in METHODS:
        raise InvalidInput(f"unknown method '{name[:64]}'; known are: {', '.join(sorted(METHODS))}", field="method")
    return name
