"""What the transformer can be told."""

from __future__ import annotations

from pydantic import Field

from mesh.settings import CallingServiceSettings


class TransformerSettings(CallingServiceSettings):
    """Settings of `python -m transformer`."""

    grpc_port: int = Field(8091, ge=0, le=65535, description="Port of the gRPC server; 0 picks a free one.")
    metrics_port: int = Field(9191, ge=0, le=65535, description="Port of /metrics and /healthz; 0 picks a free one.")
    request_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="Seconds that a request gets whose caller set no deadline."
    )
    lease_s: float = Field(10.0, ge=1, le=300, description="Seconds that the registry keeps this replica unrenewed.")
    template_workers: int = Field(1, ge=1, le=64, description="Processes that render chat templates.")
    template_queue: int = Field(256, ge=1, le=65_536, description="Prompts that may wait to be rendered.")
    template_cpu_s: float = Field(2.0, gt=0, le=60, description="CPU seconds that a chat template may take.")
    template_memory_bytes: int = Field(
        512 << 20, ge=64 << 20, le=2**40, description="Address space of a process that renders, in bytes."
    )
    max_prompt_chars: int = Field(
        8_000_000, ge=1, le=2**31 - 1, description="Longest prompt that a chat template may write, in characters."
    )
