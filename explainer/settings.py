"""What the explainer can be told."""

from __future__ import annotations

from pydantic import Field

from mesh.settings import CallingServiceSettings


class ExplainerSettings(CallingServiceSettings):
    """Settings of `python -m explainer`."""

    grpc_port: int = Field(8093, ge=0, le=65535, description="Port of the gRPC server; 0 picks a free one.")
    metrics_port: int = Field(9193, ge=0, le=65535, description="Port of /metrics and /healthz; 0 picks a free one.")
    request_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="Seconds that an explanation gets whose caller set no deadline."
    )
    lease_s: float = Field(10.0, ge=1, le=300, description="Seconds that the registry keeps this replica unrenewed.")
    max_explanations: int = Field(16, ge=1, le=10_000, description="Explanations at a time; more are refused at once.")
    max_rows_per_call: int = Field(4096, ge=1, le=2**20, description="Rows in one call to the predictor.")
    max_prompts_per_call: int = Field(256, ge=1, le=1024, description="Prompts in one call to the predictor.")
    seed: int = Field(0, ge=0, description="Seed of methods that draw, where a request gives none.")
