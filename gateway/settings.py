"""What the gateway can be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mesh.settings import CallingServiceSettings


class GatewaySettings(CallingServiceSettings):
    """Settings of `python -m gateway`."""

    grpc_port: int = Field(8081, ge=0, le=65535, description="Port of the gRPC server; 0 picks a free one.")
    metrics_port: int = Field(9181, ge=0, le=65535, description="Port of /metrics and /healthz; 0 picks a free one.")
    http_port: int = Field(8080, ge=0, le=65535, description="Port of the HTTP server; 0 picks a free one.")
    request_timeout_s: float = Field(
        600.0, gt=0, le=86_400, description="Seconds that a request gets whose client set no deadline."
    )
    max_body_bytes: int = Field(
        32 << 20,
        ge=1 << 10,
        le=2**31 - 1,
        description="Largest HTTP request body, in bytes, also after unpacking; more is 413.",
    )
    compress_min_bytes: int = Field(
        4096, ge=1, le=2**31 - 1, description="Smallest HTTP answer that is packed for a client that asks for gzip."
    )
    body_timeout_s: float = Field(
        30.0, gt=0, le=3600, description="Seconds that a client may take to send an HTTP request's body."
    )
    keep_alive_s: int = Field(30, ge=1, le=3600, description="Seconds that an idle HTTP connection stays open.")
    max_concurrent_requests: int = Field(
        4096, ge=1, le=1_000_000, description="HTTP requests in flight; more get 429 at once."
    )
    prediction_log: bool = Field(True, description="Write a record of each prediction.")
    prediction_log_file: Path | None = Field(
        None, description="File of the records, one JSON object a line; not set: predictions.jsonl in the state folder."
    )
    prediction_log_max_bytes: int = Field(
        256 << 20, ge=1 << 16, description="Size at which the file of records is put aside and a new one begun."
    )
    prediction_log_max_files: int = Field(8, ge=1, le=1000, description="Files of records that are kept.")
    prediction_log_payload_bytes: int = Field(
        256 << 10, ge=0, le=64 << 20, description="Most bytes of one request's messages that its record is made of."
    )
    mirror_max_queued: int = Field(
        256, ge=1, le=1_000_000, description="Copies of answered requests that wait for their mirror; more are dropped."
    )
    mirror_max_queued_bytes: int = Field(
        64 << 20, ge=1 << 10, description="Most bytes of these copies, each with its answer; more are dropped."
    )
    mirror_concurrency: int = Field(4, ge=1, le=256, description="Copies that are with their mirror at the same time.")
    mirror_timeout_s: float = Field(60.0, gt=0, le=3600, description="Seconds that a mirror gets for one answer.")

    @property
    def prediction_log_path(self) -> Path:
        """Where the records go."""
        return self.prediction_log_file or self.state_dir / "predictions.jsonl"
