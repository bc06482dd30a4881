"""What the transformer counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class TransformerMetrics:
    """Labels are names of deployments: bounded by what is deployed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.render = Histogram(
            "meshserve_transformer_render_seconds",
            "Seconds that one request's prompts took to render, waiting included.",
            ["model_name"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
