"""What a scrape shows: vLLM's names with model and version, and counts that are the models' own."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mesh.errors import ModelNotReady
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, encode_request
from predictor.infer_wire import parsed
from predictor.inference import Inference
from predictor.loader import ModelSpec
from predictor.metrics import ModelCollector
from predictor.repository import ModelRepository
from predictor.runtimes.generation import GenerationOptions
from predictor.runtimes.observations import RequestObserver
from tests.predictor.fake_language_model import EchoLanguageModel
from tests.predictor.fake_runtime import FakeLoader, spec


class Scraped:
    """Two models: `table` and the language model `echo`."""

    def __init__(self, **options: Any) -> None:
        self.loader = FakeLoader(echo=EchoLanguageModel)

        async def on_change(changed: ModelSpec, is_ready: bool) -> None:
            pass

        self.repository = ModelRepository([spec("table"), spec("echo", "echo", "3")], self.loader, on_change, **options)
        self.registry = CollectorRegistry()
        self.registry.register(ModelCollector(self.repository))

    def samples(self) -> dict[tuple[str, str], float]:
        """Values by (name, labels other than engine), as a Prometheus server reads them."""
        text = generate_latest(self.registry).decode()
        return {
            (sample.name, ",".join(v for k, v in sorted(sample.labels.items()) if k != "engine")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


async def test_a_language_model_has_vllm_s_series() -> None:
    scraped = Scraped()
    await scraped.repository.load_all()
    model = scraped.loader.runtimes["echo"]
    assert isinstance(model, EchoLanguageModel)
    request = await model.make_request((1, 2, 3), GenerationOptions(max_tokens=4))
    observer = RequestObserver(request, model.observations)
    async for output in model.generate(request):
        observer.saw(replace(output, first_token_s=None if output.usage.num_output_tokens > 1 else 0.2))

    samples = scraped.samples()

    assert samples["vllm:num_requests_running", "echo,3"] == 0
    assert samples["vllm:num_requests_waiting", "echo,3"] == 0
    assert samples["vllm:kv_cache_usage_perc", "echo,3"] == 0
    assert samples["vllm:prompt_tokens_total", "echo,3"] == 0
    assert samples["vllm:request_success_total", "length,echo,3"] == 1
    assert samples["vllm:time_to_first_token_seconds_count", "echo,3"] == 1
    assert samples["vllm:time_to_first_token_seconds_bucket", "0.1,echo,3"] == 0
    assert samples["vllm:time_to_first_token_seconds_bucket", "0.25,echo,3"] == 1
    assert samples["vllm:time_to_first_token_seconds_bucket", "+Inf,echo,3"] == 1
    assert samples["vllm:e2e_request_latency_seconds_sum", "echo,3"] == 0.3
    assert samples["vllm:request_prompt_tokens_sum", "echo,3"] == 3
    assert not any(name.startswith("vllm:") and "table" in labels for name, labels in samples)


async def test_inference_is_counted_for_every_model() -> None:
    scraped = Scraped()
    await scraped.repository.load_all()
    request = oip.ModelInferRequest(model_name="table")
    encode_request(request, [Tensor("int64_in", "INT64", np.zeros((5, 2), np.int64))])

    await Inference(scraped.repository).infer(parsed(request))

    samples = scraped.samples()
    assert samples["meshserve_inference_requests_total", "table,success,1"] == 1
    assert samples["meshserve_inference_requests_total", "table,fail,1"] == 0
    assert samples["meshserve_inferences_total", "table,1"] == 5
    assert samples["meshserve_inference_requests_total", "table,cancelled,1"] == 0
    assert samples["meshserve_inference_seconds_total", "table,compute_infer,1"] > 0
    assert samples["meshserve_inference_seconds_total", "table,queue,1"] >= 0
    assert samples["meshserve_batch_queue_requests", "table,1"] == 0
    assert samples["meshserve_batch_rows_bucket", "4.0,table,1"] == 0
    assert samples["meshserve_batch_rows_bucket", "8.0,table,1"] == 1
    assert samples["meshserve_batch_rows_sum", "table,1"] == 5


async def test_a_model_that_is_not_loaded_is_shown_as_not_ready() -> None:
    scraped = Scraped()
    scraped.loader.failures["echo"] = KeyError()
    await scraped.repository.load_all()

    samples = scraped.samples()

    assert samples["meshserve_model_ready", "table,1"] == 1
    assert samples["meshserve_model_ready", "echo,3"] == 0


async def test_loads_evictions_and_memory_are_shown() -> None:
    scraped = Scraped(memory_budget_bytes=1500)
    await scraped.repository.load_all()
    scraped.loader.failures["table"] = KeyError()
    for name in ("echo", "table"):
        with suppress(ModelNotReady):
            async with scraped.repository.hold(name):
                pass

    samples = scraped.samples()
    await scraped.repository.close()

    assert samples["meshserve_model_loads_total", "echo,success,3"] == 1
    assert samples["meshserve_model_loads_total", "table,fail,1"] == 1
    assert samples["meshserve_model_evictions_total", "echo,3"] == 1
    assert samples["meshserve_model_load_seconds_total", "echo,3"] > 0
    assert samples["meshserve_models_in_memory", ""] == 0
    assert samples["meshserve_memory_budget_bytes", ""] == 1500
    assert samples["meshserve_memory_used_bytes", ""] == 0
    assert samples["meshserve_load_waiting_requests", ""] == 0
    assert ("meshserve_model_memory_bytes", "echo,3") not in samples


async def test_memory_is_shown_of_what_is_in_it() -> None:
    scraped = Scraped()
    await scraped.repository.load_all()

    samples = scraped.samples()

    assert samples["meshserve_model_memory_bytes", "table,1"] == 1000
    assert samples["meshserve_models_in_memory", ""] == 2


async def test_the_page_knows_every_family() -> None:
    scraped = Scraped()
    await scraped.repository.load_all()
    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")

    samples = {name for name, _ in scraped.samples() if name.startswith("meshserve_")}
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in samples}

    assert {name for name in names if f"`{name}`" not in page} == set()
