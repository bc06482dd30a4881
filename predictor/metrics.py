"""What Prometheus sees of the models: a few families for all of them, and for language models those of the engine.

Nothing is counted here: at each scrape the numbers are read from where they are kept, so that they cannot disagree.
Every series bears model_name and version.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from predictor.engine_metrics import engine_families
from predictor.loader import LoadedModel
from predictor.repository import ModelRepository, ModelState

_MODEL_LABELS = ("model_name", "version")
_ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ModelCollector(Collector):
    """Reads the repository at each scrape, from the thread of the scrape: only plain numbers, so no lock."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    def collect(self) -> Iterable[Metric]:
        models = self._repository.loaded()
        yield self._readiness()
        yield from _inference_families(models)
        yield from _batching_families(models)
        yield from engine_families(models)

    def describe(self) -> Iterable[Metric]:
        """Nothing to check at registration: no other collector has these names."""
        return []

    def _readiness(self) -> Metric:
        ready = GaugeMetricFamily("meshserve_model_ready", "1 when the model answers, else 0.", labels=_MODEL_LABELS)
        for status in self._repository.index():
            ready.add_metric((status.name, status.version), float(status.state is ModelState.READY))
        return ready


def _inference_families(models: list[LoadedModel]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "meshserve_inference_requests",
        "Open Inference Protocol requests by outcome: success, fail, cancelled.",
        labels=(*_MODEL_LABELS, "outcome"),
    )
    rows = CounterMetricFamily("meshserve_inferences", "Inferences; a batch of n counts n.", labels=_MODEL_LABELS)
    seconds = CounterMetricFamily(
        "meshserve_inference_seconds",
        "Seconds spent on requests by phase: queue, compute_input, compute_infer, compute_output.",
        labels=(*_MODEL_LABELS, "phase"),
    )
    for model in models:
        labels, statistics = (model.spec.name, model.spec.version), model.statistics
        for outcome in ("success", "fail", "cancelled"):
            requests.add_metric((*labels, outcome), getattr(statistics, outcome).count)
        rows.add_metric(labels, statistics.inference_count)
        seconds.add_metric((*labels, "queue"), statistics.queue.ns / 1e9)
        for phase in ("compute_input", "compute_infer", "compute_output"):
            seconds.add_metric((*labels, phase), getattr(statistics.phases, phase).ns / 1e9)
    yield from (requests, rows, seconds)


def _batching_families(models: list[LoadedModel]) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "meshserve_batch_queue_requests", "Requests that wait for the model.", labels=_MODEL_LABELS
    )
    sizes = HistogramMetricFamily(
        "meshserve_batch_rows", "Rows that one execution of the model computed.", labels=_MODEL_LABELS
    )
    for model in models:
        labels = (model.spec.name, model.spec.version)
        waiting.add_metric(labels, model.batcher.num_waiting)
        # A copy: the event loop may add a size while the thread of the scrape counts.
        executions = {
            rows: phases.compute_infer.count for rows, phases in model.statistics.by_batch_size.copy().items()
        }
        buckets = [
            (str(float(bound)), sum(count for rows, count in executions.items() if rows <= bound))
            for bound in _ROW_BOUNDS
        ]
        sizes.add_metric(
            labels,
            [*buckets, ("+Inf", sum(executions.values()))],
            sum_value=sum(rows * count for rows, count in executions.items()),
        )
    yield from (waiting, sizes)
