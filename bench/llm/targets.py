"""What MeshServe shall reach beside its peers: the project's targets, as ratios to what is measured in the same run."""

from __future__ import annotations

from dataclasses import dataclass

from bench.llm.figures import Figures
from bench.llm.meshserve import GATEWAY, PREDICTOR
from bench.llm.summary import Metric, Summary
from bench.spread import Spread


def tokens_per_s(figures: Figures) -> float | None:
    return figures.output_tokens_per_s


def ttft_p50(figures: Figures) -> float | None:
    return figures.ttft_p50_ms


def ttft_p99(figures: Figures) -> float | None:
    return figures.ttft_p99_ms


@dataclass(frozen=True, slots=True)
class Target:
    """MeshServe's figure over the rival's. rival: contenders that it stands for are in RIVALS; the best one counts."""

    workload: str
    what: str
    metric: Metric
    rival: str
    bound: float
    higher_is_better: bool = True
    ours: str = GATEWAY

    def ratio(self, summary: Summary) -> Spread | None:
        """What was measured; None when something is missing."""
        rivals = [each for each in summary.record.contenders if each.name in RIVALS[self.rival]]
        best = summary.best(rivals, self.workload, self.metric, self.higher_is_better)
        return None if best is None else summary.ratio(self.ours, best.name, self.workload, self.metric)

    def is_reached(self, ratio: Spread) -> bool:
        """By the median."""
        return ratio.median >= self.bound if self.higher_is_better else ratio.median <= self.bound


LLAMA_CPP, OPENVINO, VLLM, VLLM_W8A8 = "llama.cpp Q4_1", "OpenVINO GenAI bf16", "vLLM bf16", "vLLM w8a8"
RIVALS = {
    LLAMA_CPP: ("llama.cpp, 8 slots", "llama.cpp, 32 slots"),
    OPENVINO: ("OpenVINO GenAI",),
    VLLM: ("vLLM",),
    VLLM_W8A8: ("vLLM w8a8",),
    PREDICTOR: (PREDICTOR,),
}


_TOKENS, _TTFT, _TTFT_P99 = "output tokens/s", "TTFT p50", "TTFT p99"

TARGETS = (
    Target("chat c=1", _TOKENS, tokens_per_s, LLAMA_CPP, 1.2),
    Target("chat c=1", _TOKENS, tokens_per_s, VLLM_W8A8, 2.5),
    Target("chat c=8", _TOKENS, tokens_per_s, OPENVINO, 1.6),
    Target("chat c=8", _TOKENS, tokens_per_s, VLLM_W8A8, 1.25),
    Target("chat c=32", _TOKENS, tokens_per_s, OPENVINO, 1.8),
    Target("chat c=32", _TOKENS, tokens_per_s, VLLM_W8A8, 1.5),
    Target("long c=1", _TTFT, ttft_p50, VLLM, 0.65, higher_is_better=False),
    Target("long c=1", _TTFT, ttft_p50, VLLM_W8A8, 0.9, higher_is_better=False),
    Target("long c=8", _TOKENS, tokens_per_s, VLLM, 1.7),
    Target("long c=8", _TOKENS, tokens_per_s, VLLM_W8A8, 1.3),
    Target("prefixes c=8", _TOKENS, tokens_per_s, OPENVINO, 1.9),
    Target("prefixes c=8", _TOKENS, tokens_per_s, VLLM_W8A8, 1.5),
    Target("burst 200", _TOKENS, tokens_per_s, OPENVINO, 1.5),
    Target("burst 200", _TTFT_P99, ttft_p99, OPENVINO, 0.7, higher_is_better=False),
    Target("burst 200", _TOKENS, tokens_per_s, VLLM_W8A8, 1.4),
    Target("chat c=32", _TOKENS, tokens_per_s, PREDICTOR, 0.93),
)
MAX_START_S = 3.0
MAX_MEMORY_MB = 1000.0
