"""What Prometheus sees of the models: a few families for all of them, and for language models those of the engine.

Nothing is counted here: at each scrape the numbers are read from where they are kept, so that they cannot disagree.
Every series of a model bears model_name and version.
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
        yield from _memory_families(self._repository)
        yield from _load_families(self._repository)
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


def _memory_families(repository: ModelRepository) -> Iterator[Metric]:
    memory = repository.memory_by_model()
    by_model = GaugeMetricFamily(
        "meshserve_model_memory_bytes", "Memory that a model takes; of those in memory.", labels=_MODEL_LABELS
    )
    for spec, size_bytes in memory:
        by_model.add_metric((spec.name, spec.version), size_bytes)
    yield by_model
    for name, text, value in (
        ("meshserve_models_in_memory", "Versions of models in memory.", len(memory)),
        ("meshserve_memory_used_bytes", "Memory of all models, loading ones included.", repository.memory_used_bytes),
        ("meshserve_memory_budget_bytes", "memory_budget_mb in bytes; 0 is none.", repository.memory_budget_bytes),
        ("meshserve_load_waiting_requests", "Requests that wait for their model's load.", repository.num_waiting),
    ):
        yield GaugeMetricFamily(name, text, value=value)


def _load_families(repository: ModelRepository) -> Iterator[Metric]:
    loads = CounterMetricFamily(
        "meshserve_model_loads", "Loads by outcome: success, fail.", labels=(*_MODEL_LABELS, "outcome")
    )
    seconds = CounterMetricFamily(
        "meshserve_model_load_seconds",
        "Seconds of the loads that succeeded, waits for room included.",
        labels=_MODEL_LABELS,
    )
    evictions = CounterMetricFamily(
        "meshserve_model_evictions", "Times that an idle model left memory for another.", labels=_MODEL_LABELS
    )
    for spec, counts in repository.load_counts():
        labels = (spec.name, spec.version)
        loads.add_metric((*labels, "success"), counts.loaded)
        loads.add_metric((*labels, "fail"), counts.failed)
        seconds.add_metric(labels, counts.load_s)
        evictions.add_metric(labels, counts.evicted)
    yield from (loads, seconds, evictions)


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
