"""What the explainer counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class ExplainerMetrics:
    """Labels are names of deployments and methods: bounded by what is deployed and built in."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["model_name", "method"]
        self.duration = Histogram(
            "meshserve_explainer_explanation_seconds",
            "Seconds that one explanation took, failed ones included.",
            labels,
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self.predictor_calls = Counter(
            "meshserve_explainer_predictor_calls", "Calls to predictors.", labels, registry=registry
        )
        self.running = Gauge("meshserve_explainer_running", "Explanations being made now.", registry=registry)
