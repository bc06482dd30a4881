"""What is measured of each server: by which front and client, how many requests, how many at a time."""

from __future__ import annotations

from dataclasses import dataclass

from bench.oip.load import Load


@dataclass(frozen=True, slots=True)
class Workload:
    """front: of a contender. is_python: by the client in Python, else by h2load. rows: of the tensor."""

    name: str
    front: str
    load: Load
    is_python: bool = False
    rows: int = 1

    def scaled(self, share: float) -> Workload:
        """The same with a share of its requests; for a quick look, not for figures."""
        num_requests = max(self.load.concurrency, round(share * self.load.num_requests))
        return Workload(self.name, self.front, Load(num_requests, self.load.concurrency), self.is_python, self.rows)


# FP32 [262144, 16].
LARGE_ROWS = 262_144
LARGE = "gRPC 16 MiB"

WORKLOADS = (
    *(Workload(f"gRPC c={c}", "gRPC", Load(n, c)) for c, n in ((1, 2000), (8, 6000), (32, 8000))),
    *(Workload(f"stream c={c}", "stream", Load(n, c), is_python=True) for c, n in ((1, 2000), (8, 6000), (32, 12000))),
    *(Workload(f"REST c={c}", "REST", Load(n, c)) for c, n in ((1, 2000), (8, 6000), (32, 8000))),
    Workload("gRPC c=32, Python client", "gRPC", Load(6000, 32), is_python=True),
    Workload(LARGE, "gRPC", Load(12, 1), is_python=True, rows=LARGE_ROWS),
)
