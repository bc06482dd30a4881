"""What the predictor can be told: which models it serves and where it keeps what it fetches."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mesh.settings import ServiceSettings


class PredictorSettings(ServiceSettings):
    """Flags > environment > file, as for every service."""

    grpc_port: int = Field(8092, ge=0, le=65535, description="Port of the gRPC server; 0 picks a free one.")
    metrics_port: int = Field(9192, ge=0, le=65535, description="Port of /metrics; 0 picks a free one.")
    deployments: Path | None = Field(None, description="YAML file of the deployments whose models are served.")
    model: list[str] = Field(
        default_factory=list,
        description="name=uri of a model to serve; may be given many times. Its format is found by the "
        "names of its files: docs/runtimes.md.",
    )
    cache_dir: Path = Field(Path("~/.cache/meshserve"), description="Folder for fetched model files.")
    trust_model_code: bool = Field(
        False,
        description="Models may run code that they bring: Python classes, and what pickle and joblib files hold. Only "
        "for artifacts whose every author you trust.",
    )
    lease_s: float = Field(10.0, ge=1, le=300, description="Seconds that the registry keeps this replica unrenewed.")
    memory_budget_mb: int = Field(
        0,
        ge=0,
        le=1 << 24,
        description="Memory that all models may take together, in MiB. Models are loaded when requests want them, and "
        "idle ones leave, the least recently used first. 0: no budget, all models are loaded at the start.",
    )
    load_wait_s: float = Field(
        300.0, gt=0, le=3600, description="Seconds that a request waits for its model to be loaded, if it can wait."
    )
    max_load_waiters: int = Field(
        1024,
        ge=1,
        le=1 << 16,
        description="Requests that wait for models to be loaded; more get RESOURCE_EXHAUSTED at once.",
    )
    unload_timeout_s: float = Field(
        60.0, ge=0, le=3600, description="Seconds that requests get to finish before their model is unloaded."
    )
