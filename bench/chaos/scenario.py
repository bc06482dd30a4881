"""What a run of chaos is made of: the models, how the services are started, what is asked, and how rough it gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Roughness:
    """In seconds. frozen_s, registry_away_s: how long that lasts. away_s: from a replica's end to its next start.

    pause_s: between two draws of a fault, which is made when it may be. What has two ends is drawn between them.
    """

    frozen_s: float = 5.0
    registry_away_s: float = 10.0
    away_s: tuple[float, float] = (0.0, 4.0)
    pause_s: tuple[float, float] = (0.5, 3.0)
    # A replica that is back takes traffic within a second (mesh/discovery.py); it counts as healthy after that.
    settle_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """deployments: as in a deployments file. predictor_module: what `python -m` runs as a predictor.

    language_model, table_model: names among the deployments. table_inputs: what the latter takes.
    drain_s, grace_s: settings of all services. timeout_s: longest that a client waits for an answer. start_s: longest
    that a service takes until it serves.
    """

    deployments: tuple[Mapping[str, object], ...]
    language_model: str
    table_model: str
    table_inputs: tuple[Tensor, ...]
    predictor_module: str = "predictor"
    num_predictors: int = 3
    num_transformers: int = 2
    drain_s: float = 0.5
    grace_s: float = 20.0
    timeout_s: float = 120.0
    start_s: float = 120.0
    roughness: Roughness = field(default_factory=Roughness)

    @property
    def models(self) -> tuple[str, str]:
        return self.language_model, self.table_model

    def write_deployments(self, path: Path) -> None:
        """The deployments file; JSON is YAML."""
        path.write_text(json.dumps({"deployments": list(self.deployments)}), encoding="utf-8")
