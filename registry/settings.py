"""What the registry can be told."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mesh.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """Settings of `python -m registry`."""

    grpc_port: int = Field(8090, ge=0, le=65535, description="Port of the gRPC server; 0 picks a free one.")
    metrics_port: int = Field(9190, ge=0, le=65535, description="Port of /metrics and /healthz; 0 picks a free one.")
    database: str = Field("", description="URL of the database; empty: the SQLite file registry.db in state_dir.")
    deployments: Path | None = Field(
        None, description="YAML file of deployments, applied at a start when it says another thing than before."
    )
    lease_s: float = Field(10.0, ge=1, le=300, description="Seconds of a replica's lease when it asks for none.")
    history_events: int = Field(4096, ge=1, le=1 << 20, description="Changes that a watcher may be behind to resume.")
    max_watchers: int = Field(1024, ge=1, le=1 << 20, description="Watch streams at once; more are refused.")

    @property
    def database_url(self) -> str:
        """`database`, or the URL of its default."""
        return self.database or f"sqlite:///{(self.state_dir / 'registry.db').absolute()}"
