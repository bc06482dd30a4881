"""The engine's families as a Prometheus server reads them: vLLM's names, labels and bounds, and honest numbers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from predictor.engine_metrics import engine_families
from predictor.llm.outputs import EngineStats, Timings, Usage
from predictor.llm.sequence import FinishReason, RejectionReason
from predictor.loader import LoadedModel
from predictor.statistics import ModelStatistics
from tests.predictor.fake_language_model import EchoLanguageModel
from tests.predictor.fake_runtime import IdentityRuntime, spec

ROOT = Path(__file__).resolve().parents[2]
STATS = EngineStats(
    num_running=2,
    num_waiting=3,
    num_waiting_tokens=30,
    num_blocks=8,
    num_free_blocks=2,
    num_steps=10,
    num_preemptions=4,
    num_prefix_queries=100,
    num_prefix_hits=60,
    num_prompt_tokens=90,
    num_cached_prompt_tokens=50,
    num_generation_tokens=70,
    num_drafts=9,
    num_draft_tokens=40,
    num_accepted_by_position={0: 8, 1: 5},
    num_deaths=1,
    num_finished={FinishReason.STOP: 5, FinishReason.ABORT: 6},
    num_rejected={RejectionReason.TOKENS: 7},
)


class CountedModel(EchoLanguageModel):
    def stats(self) -> EngineStats:
        return STATS


class Families(Collector):
    def __init__(self) -> None:
        self.runtime = CountedModel()
        self.runtime.observations.finished(Usage(5, 0, 3, 2), Timings(0.25, 1.25, 3.25), 16)
        self.runtime.observations.gap_s.observe(0.002)
        self.runtime.observations.step_tokens.observe(40)

    def collect(self) -> Iterator[Metric]:
        model = LoadedModel(spec("chat", version="3"), "0" * 64, self.runtime, ModelStatistics())
        table = LoadedModel(spec("table"), "0" * 64, IdentityRuntime(), ModelStatistics())
        yield from engine_families([model, table])

    def describe(self) -> Iterator[Metric]:
        return iter(())


def scrape() -> str:
    registry = CollectorRegistry()
    registry.register(Families())
    return generate_latest(registry).decode()


def samples() -> dict[str, float]:
    """Values by name and labels, those that every series has left out."""
    own = {"model_name": "chat", "version": "3", "engine": "0"}
    found = {}
    for family in text_string_to_metric_families(scrape()):
        for sample in family.samples:
            assert own.items() <= sample.labels.items(), sample
            rest = ",".join(f"{name}={value}" for name, value in sample.labels.items() if name not in own)
            found[f"{sample.name}{{{rest}}}" if rest else sample.name] = sample.value
    return found


@pytest.mark.parametrize(
    ("series", "value"),
    {
        "vllm:num_requests_running": 2,
        "vllm:num_requests_waiting": 3,
        "vllm:num_requests_waiting_by_reason{reason=capacity}": 3,
        "vllm:num_requests_waiting_by_reason{reason=deferred}": 0,
        "vllm:kv_cache_usage_perc": 0.75,
        "vllm:gpu_cache_usage_perc": 0.75,
        "vllm:cpu_cache_usage_perc": 0,
        "vllm:num_requests_swapped": 0,
        "vllm:prefix_cache_queries_total": 100,
        "vllm:prefix_cache_hits_total": 60,
        "vllm:prompt_tokens_total": 90,
        "vllm:prompt_tokens_by_source_total{source=local_compute}": 40,
        "vllm:prompt_tokens_by_source_total{source=local_cache_hit}": 50,
        "vllm:prompt_tokens_by_source_total{source=external_kv_transfer}": 0,
        "vllm:prompt_tokens_cached_total": 50,
        "vllm:generation_tokens_total": 70,
        "vllm:num_preemptions_total": 4,
        "vllm:spec_decode_num_drafts_total": 9,
        "vllm:spec_decode_num_draft_tokens_total": 40,
        "vllm:spec_decode_num_accepted_tokens_total": 13,
        "vllm:spec_decode_num_accepted_tokens_per_pos_total{position=0}": 8,
        "vllm:spec_decode_num_accepted_tokens_per_pos_total{position=1}": 5,
        "vllm:request_success_total{finished_reason=stop}": 5,
        "vllm:request_success_total{finished_reason=length}": 0,
        "vllm:request_success_total{finished_reason=abort}": 6,
        "vllm:request_success_total{finished_reason=error}": 0,
        "vllm:request_success_total{finished_reason=repetition}": 0,
        "vllm:admission_rejections_total{reason=max_num_queued_reqs}": 0,
        "vllm:admission_rejections_total{reason=max_num_queued_tokens}": 7,
        "meshserve_engine_deaths_total": 1,
        "vllm:e2e_request_latency_seconds_sum": 3.25,
        "vllm:request_queue_time_seconds_sum": 0.25,
        "vllm:request_prefill_time_seconds_sum": 1.0,
        "vllm:request_decode_time_seconds_sum": 2.0,
        "vllm:request_inference_time_seconds_sum": 3.0,
        "vllm:request_time_per_output_token_seconds_sum": 1.0,
        "vllm:inter_token_latency_seconds_bucket{le=0.0025}": 1,
        "vllm:inter_token_latency_seconds_bucket{le=0.001}": 0,
        "vllm:time_per_output_token_seconds_count": 1,
        "vllm:time_to_first_token_seconds_count": 0,
        "vllm:iteration_tokens_total_bucket{le=64.0}": 1,
        "vllm:iteration_tokens_total_bucket{le=32.0}": 0,
        "vllm:request_prompt_tokens_sum": 5,
        "vllm:request_generation_tokens_sum": 3,
        "vllm:request_params_max_tokens_sum": 16,
        "vllm:request_num_preemptions_sum": 2,
        "vllm:request_params_n_count": 0,
        "vllm:request_max_num_generation_tokens_count": 0,
    }.items(),
)
def test_a_series_has_its_number(series: str, value: float) -> None:
    assert samples()[series] == value


def test_the_cache_is_described_in_labels() -> None:
    (series,) = (name for name in samples() if name.startswith("vllm:cache_config_info"))

    assert dict(part.split("=") for part in re.search(r"\{(.*)\}", series)[1].split(",")) == {  # type: ignore[index]
        "block_size": "16",
        "num_gpu_blocks": "10",
        "cache_dtype": "float32",
        "enable_prefix_caching": "True",
        "kv_cache_bytes": "4096",
    }


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        (
            "vllm:e2e_request_latency_seconds",
            ".3 .5 .8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680",
        ),
        (
            "vllm:time_to_first_token_seconds",
            ".001 .005 .01 .02 .04 .06 .08 .1 .25 .5 .75 1 2.5 5 7.5 10 20 40 80 160 640 2560",
        ),
        (
            "vllm:inter_token_latency_seconds",
            ".001 .0025 .005 .01 .025 .05 .075 .1 .15 .2 .3 .4 .5 .75 1 2.5 5 7.5 10 20 40 80",
        ),
        ("vllm:iteration_tokens_total", "1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384"),
        ("vllm:request_params_n", "1 2 5 10 20"),
    ],
)
def test_bounds_are_vllm_s(name: str, bounds: str) -> None:
    found = [
        sample.labels["le"]
        for family in text_string_to_metric_families(scrape())
        for sample in family.samples
        if sample.name == f"{name}_bucket"
    ]

    assert [float(bound) for bound in found[:-1]] == [float(bound) for bound in bounds.split()]
    assert found[-1] == "+Inf"


def test_the_page_lists_what_a_scrape_shows() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    shown = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(scrape())
    }

    listed = set(re.findall(r"^\| `([a-z0-9_:]+)`", page.partition("## Language models")[2], flags=re.MULTILINE))

    assert listed == shown


# What its linter dislikes in names that vLLM chose.
LINT = (
    "metric names should not contain ':'",
    'non-counter metrics should not have "_total" suffix',
    "metric names should not contain abbreviated units",
)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_no_fault_but_in_vllm_s_own_names() -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=scrape(), capture_output=True, text=True, timeout=60, check=False
    )

    complaints = (checked.stdout + checked.stderr).splitlines()
    assert [line for line in complaints if not line.endswith(LINT)] == []


def test_every_family_is_read_as_what_it_is() -> None:
    """What promtool would refuse: a family twice, without its text, or of an unknown kind."""
    families = list(text_string_to_metric_families(scrape()))

    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}
    assert all(family.documentation for family in families)
