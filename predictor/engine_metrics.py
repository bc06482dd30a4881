"""What Prometheus sees of a language model's engine: vLLM's names, labels and bounds, so that what reads vLLM reads us.

One row a family: its name, what it is, and how it is read. docs/metrics.md is generated from these tables. What vLLM
exports only with a feature that is not here (adapters, sleep) is left out; what it would export
as 0 is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from predictor.llm.outputs import EngineStats
from predictor.llm.sequence import FinishReason, RejectionReason
from predictor.loader import LoadedModel
from predictor.runtimes.language_model import KvCacheDescription, LanguageModelRuntime
from predictor.runtimes.observations import GenerationObservations, Histogram

# vLLM's dashboards select by `engine`; a model has one here.
LABELS = ("model_name", "version", "engine")
CACHE_LABELS = ("block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching", "kv_cache_bytes")


@dataclass(frozen=True, slots=True)
class NumberFamily:
    """A gauge or a counter. read: one number, or with `label` one for each of its values."""

    name: str
    text: str
    read: Callable[[EngineStats], float | Mapping[str, float]]
    label: str = ""


@dataclass(frozen=True, slots=True)
class HistogramFamily:
    name: str
    text: str
    read: Callable[[GenerationObservations], Histogram]


@dataclass(frozen=True, slots=True)
class _Look:
    """What one scrape reads of one model."""

    labels: tuple[str, ...]
    stats: EngineStats
    observations: GenerationObservations
    kv_cache: KvCacheDescription


def engine_families(models: Sequence[LoadedModel]) -> Iterator[Metric]:
    """All families over the language models among `models`."""
    looks = [
        _Look((model.spec.name, model.spec.version, "0"), runtime.stats(), runtime.observations, runtime.kv_cache)
        for model in models
        if isinstance(runtime := model.runtime, LanguageModelRuntime)
    ]
    yield _cache_config(looks)
    for family in GAUGES:
        yield _with_numbers(GaugeMetricFamily(family.name, family.text, labels=_labels(family)), family, looks)
    for family in COUNTERS:
        yield _with_numbers(CounterMetricFamily(family.name, family.text, labels=_labels(family)), family, looks)
    for histogram in HISTOGRAMS:
        buckets = HistogramMetricFamily(histogram.name, histogram.text, labels=LABELS)
        for look in looks:
            _add_histogram(buckets, look.labels, histogram.read(look.observations))
        yield buckets


def _labels(family: NumberFamily) -> tuple[str, ...]:
    return (*LABELS, family.label) if family.label else LABELS


def _with_numbers(
    metric: GaugeMetricFamily | CounterMetricFamily, family: NumberFamily, looks: Sequence[_Look]
) -> Metric:
    for look in looks:
        numbers = family.read(look.stats)
        if isinstance(numbers, Mapping):
            for value, number in numbers.items():
                metric.add_metric((*look.labels, value), number)
        else:
            metric.add_metric(look.labels, numbers)
    return metric


def _cache_config(looks: Sequence[_Look]) -> Metric:
    config = GaugeMetricFamily(CACHE_CONFIG.name, CACHE_CONFIG.text, labels=(*LABELS, *CACHE_LABELS))
    for look in looks:
        cache = look.kv_cache
        values = (cache.block_size, cache.num_blocks, cache.dtype, cache.enable_prefix_caching, cache.size_bytes)
        config.add_metric((*look.labels, *map(str, values)), 1)
    return config


def _add_histogram(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    cumulative, buckets = 0, []
    for bound, count in zip((*map(str, map(float, histogram.bounds)), "+Inf"), histogram.counts, strict=True):
        cumulative += count
        buckets.append((bound, float(cumulative)))
    family.add_metric(labels, buckets, histogram.sum)


def _finished(stats: EngineStats) -> dict[str, float]:
    # vLLM ends some outputs for repeating themselves; no output ends so here.
    return {**{reason.value: stats.num_finished.get(reason, 0) for reason in FinishReason}, "repetition": 0}


def _rejected(stats: EngineStats) -> dict[str, float]:
    return {reason.value: stats.num_rejected.get(reason, 0) for reason in RejectionReason}


def _prompt_tokens_by_source(stats: EngineStats) -> dict[str, float]:
    return {
        "local_compute": stats.num_prompt_tokens - stats.num_cached_prompt_tokens,
        "local_cache_hit": stats.num_cached_prompt_tokens,
        "external_kv_transfer": 0,  # keys and values never come from elsewhere
    }


CACHE_CONFIG = NumberFamily("vllm:cache_config_info", "Always 1; the labels say what the KV cache is.", lambda stats: 1)

GAUGES = (
    NumberFamily("vllm:num_requests_running", "Outputs that the engine computes now.", lambda stats: stats.num_running),
    NumberFamily("vllm:num_requests_waiting", "Outputs that wait for the engine.", lambda stats: stats.num_waiting),
    NumberFamily(
        "vllm:num_requests_waiting_by_reason",
        "Outputs that wait, by what they wait for; none is ever deferred.",
        lambda stats: {"capacity": stats.num_waiting, "deferred": 0},
        "reason",
    ),
    NumberFamily(
        "vllm:kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.", lambda stats: stats.kv_cache_usage
    ),
    NumberFamily("vllm:gpu_cache_usage_perc", "Older name of kv_cache_usage_perc.", lambda stats: stats.kv_cache_usage),
    NumberFamily("vllm:cpu_cache_usage_perc", "Older name; always 0: no block is moved out.", lambda stats: 0),
    NumberFamily("vllm:num_requests_swapped", "Older name; always 0: no request is swapped out.", lambda stats: 0),
)

COUNTERS = (
    NumberFamily(
        "vllm:prefix_cache_queries", "Prompt tokens looked up in the cache.", lambda stats: stats.num_prefix_queries
    ),
    NumberFamily("vllm:prefix_cache_hits", "Prompt tokens found in the cache.", lambda stats: stats.num_prefix_hits),
    NumberFamily(
        "vllm:prompt_tokens",
        "Tokens of the prompts that were computed, those from the cache included.",
        lambda stats: stats.num_prompt_tokens,
    ),
    NumberFamily(
        "vllm:prompt_tokens_by_source",
        "The same by where keys and values came from; nothing is ever transferred from elsewhere.",
        _prompt_tokens_by_source,
        "source",
    ),
    NumberFamily(
        "vllm:prompt_tokens_cached",
        "Those of them that came from the cache.",
        lambda stats: stats.num_cached_prompt_tokens,
    ),
    NumberFamily("vllm:generation_tokens", "Tokens generated.", lambda stats: stats.num_generation_tokens),
    NumberFamily("vllm:spec_decode_num_drafts", "Drafts that were verified.", lambda stats: stats.num_drafts),
    NumberFamily("vllm:spec_decode_num_draft_tokens", "Tokens of those drafts.", lambda stats: stats.num_draft_tokens),
    NumberFamily(
        "vllm:spec_decode_num_accepted_tokens",
        "Those of them that were accepted: what the engine would have generated, and did without steps of their own.",
        lambda stats: stats.num_accepted_tokens,
    ),
    NumberFamily(
        "vllm:spec_decode_num_accepted_tokens_per_pos",
        "The same by their place in the draft, from 0.",
        lambda stats: {str(position): count for position, count in sorted(stats.num_accepted_by_position.items())},
        "position",
    ),
    NumberFamily(
        "vllm:num_preemptions",
        "Times that an output was pushed back to make room.",
        lambda stats: stats.num_preemptions,
    ),
    NumberFamily("vllm:request_success", "Outputs that ended, by reason.", _finished, "finished_reason"),
    NumberFamily(
        "vllm:admission_rejections",
        "Requests that were refused for want of room in the queue, by which of its bounds.",
        _rejected,
        "reason",
    ),
    NumberFamily(
        "meshserve_engine_deaths", "Times that the engine's process ended or hung.", lambda stats: stats.num_deaths
    ),
)

HISTOGRAMS = (
    HistogramFamily(
        "vllm:time_to_first_token_seconds", "Seconds from arrival to the first token.", lambda seen: seen.first_token_s
    ),
    HistogramFamily(
        "vllm:inter_token_latency_seconds",
        "Seconds between the tokens of a step and those before them; accepted drafts come with others, in one step.",
        lambda seen: seen.gap_s,
    ),
    HistogramFamily(
        "vllm:time_per_output_token_seconds", "Older name of inter_token_latency_seconds.", lambda seen: seen.gap_s
    ),
    HistogramFamily(
        "vllm:request_time_per_output_token_seconds",
        "Mean seconds between the tokens of an output, for outputs of more than one.",
        lambda seen: seen.output_token_s,
    ),
    HistogramFamily(
        "vllm:e2e_request_latency_seconds", "Seconds from arrival to the last token.", lambda seen: seen.total_s
    ),
    HistogramFamily(
        "vllm:request_queue_time_seconds", "Seconds from arrival to the first step.", lambda seen: seen.queue_s
    ),
    HistogramFamily(
        "vllm:request_inference_time_seconds",
        "Seconds from the first step to the last token.",
        lambda seen: seen.inference_s,
    ),
    HistogramFamily(
        "vllm:request_prefill_time_seconds",
        "Seconds from the first step to the first result.",
        lambda seen: seen.prefill_s,
    ),
    HistogramFamily(
        "vllm:request_decode_time_seconds",
        "Seconds from the first result to the last token, preemptions included.",
        lambda seen: seen.decode_s,
    ),
    HistogramFamily("vllm:iteration_tokens_total", "Tokens that a step computed.", lambda seen: seen.step_tokens),
    HistogramFamily("vllm:request_prompt_tokens", "Prompt tokens of an output.", lambda seen: seen.prompt_tokens),
    HistogramFamily("vllm:request_generation_tokens", "Tokens of an output.", lambda seen: seen.output_tokens),
    HistogramFamily(
        "vllm:request_max_num_generation_tokens",
        "Tokens of the longest output of a request.",
        lambda seen: seen.longest_output_tokens,
    ),
    HistogramFamily("vllm:request_params_n", "Outputs that a request asked for.", lambda seen: seen.num_outputs),
    HistogramFamily(
        "vllm:request_params_max_tokens",
        "Longest output asked for; what is left of the context where a request does not say.",
        lambda seen: seen.max_tokens,
    ),
    HistogramFamily(
        "vllm:request_num_preemptions",
        "Times that an output was pushed back before it ended.",
        lambda seen: seen.preemptions,
    ),
)
