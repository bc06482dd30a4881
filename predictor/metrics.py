"""What Prometheus sees of the models: vLLM's names for language models, a few of our own for all.

Nothing is counted here: at each scrape the numbers are read from where they are kept, so that they cannot disagree.
Every series bears model_name and version; the language models' also `engine`, which vLLM's dashboards select by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from predictor.llm.outputs import EngineStats
from predictor.loader import LoadedModel
from predictor.repository import ModelRepository, ModelState
from predictor.runtimes.language_model import LanguageModelRuntime
from predictor.runtimes.observations import GenerationObservations, Histogram

_MODEL_LABELS = ("model_name", "version")
_ENGINE_LABELS = ("model_name", "version", "engine")


class ModelCollector(Collector):
    """Reads the repository at each scrape, from the thread of the scrape: only plain numbers, so no lock."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    def collect(self) -> Iterable[Metric]:
        models = self._repository.loaded()
        yield self._readiness()
        yield from _inference_families(models)
        yield from _engine_families(
            [(model, model.runtime) for model in models if isinstance(model.runtime, LanguageModelRuntime)]
        )

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
        "Open Inference Protocol requests by outcome.",
        labels=(*_MODEL_LABELS, "outcome"),
    )
    rows = CounterMetricFamily("meshserve_inferences", "Inferences; a batch of n counts n.", labels=_MODEL_LABELS)
    seconds = CounterMetricFamily(
        "meshserve_inference_seconds", "Seconds spent on requests by phase.", labels=(*_MODEL_LABELS, "phase")
    )
    for model in models:
        labels, statistics = (model.spec.name, model.spec.version), model.statistics
        requests.add_metric((*labels, "success"), statistics.success.count)
        requests.add_metric((*labels, "fail"), statistics.fail.count)
        rows.add_metric(labels, statistics.inference_count)
        for phase in ("compute_input", "compute_infer", "compute_output"):
            seconds.add_metric((*labels, phase), getattr(statistics.phases, phase).ns / 1e9)
    yield from (requests, rows, seconds)


def _engine_families(models: list[tuple[LoadedModel, LanguageModelRuntime]]) -> Iterator[Metric]:
    looks = [((model.spec.name, model.spec.version, "0"), runtime.stats()) for model, runtime in models]
    for name, text, gauge in _GAUGES:
        family = GaugeMetricFamily(name, text, labels=_ENGINE_LABELS)
        for labels, stats in looks:
            family.add_metric(labels, gauge(stats))
        yield family
    for name, text, count in _COUNTERS:
        counter = CounterMetricFamily(name, text, labels=_ENGINE_LABELS)
        for labels, stats in looks:
            counter.add_metric(labels, count(stats))
        yield counter
    yield _finished(looks)
    for name, text, histogram in _HISTOGRAMS:
        buckets = HistogramMetricFamily(name, text, labels=_ENGINE_LABELS)
        for (labels, _), (_, runtime) in zip(looks, models, strict=True):
            _add_histogram(buckets, labels, histogram(runtime.observations))
        yield buckets


def _finished(looks: list[tuple[tuple[str, str, str], EngineStats]]) -> Metric:
    finished = CounterMetricFamily(
        "vllm:request_success", "Requests that ended, by reason.", labels=(*_ENGINE_LABELS, "finished_reason")
    )
    for labels, stats in looks:
        for reason, count in stats.num_finished.items():
            finished.add_metric((*labels, reason.value), count)
    return finished


def _add_histogram(family: HistogramMetricFamily, labels: tuple[str, str, str], histogram: Histogram) -> None:
    cumulative, buckets = 0, []
    for bound, count in zip((*map(str, map(float, histogram.bounds)), "+Inf"), histogram.counts, strict=True):
        cumulative += count
        buckets.append((bound, float(cumulative)))
    family.add_metric(labels, buckets, histogram.sum)


# (name, what it is, how it is read)
_GAUGES: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("vllm:num_requests_running", "Requests that the engine computes now.", lambda stats: stats.num_running),
    ("vllm:num_requests_waiting", "Requests that wait for the engine.", lambda stats: stats.num_waiting),
    ("vllm:kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.", lambda stats: stats.kv_cache_usage),
    ("vllm:gpu_cache_usage_perc", "Older name of kv_cache_usage_perc.", lambda stats: stats.kv_cache_usage),
)
_COUNTERS: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
    ("vllm:prompt_tokens", "Prompt tokens computed.", lambda stats: stats.num_prompt_tokens),
    ("vllm:generation_tokens", "Tokens generated.", lambda stats: stats.num_generation_tokens),
    ("vllm:num_preemptions", "Requests pushed back to make room.", lambda stats: stats.num_preemptions),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up.", lambda stats: stats.num_prefix_queries),
    ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", lambda stats: stats.num_prefix_hits),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[GenerationObservations], Histogram]], ...] = (
    (
        "vllm:time_to_first_token_seconds",
        "Seconds from arrival to the first token.",
        lambda seen: seen.first_token_s,
    ),
    ("vllm:inter_token_latency_seconds", "Seconds between tokens.", lambda seen: seen.gap_s),
    ("vllm:e2e_request_latency_seconds", "Seconds from arrival to the last token.", lambda seen: seen.total_s),
    ("vllm:request_queue_time_seconds", "Seconds from arrival to the first step.", lambda seen: seen.queue_s),
    ("vllm:request_prompt_tokens", "Prompt tokens of a request.", lambda seen: seen.prompt_tokens),
    ("vllm:request_generation_tokens", "Output tokens of a request.", lambda seen: seen.output_tokens),
)
