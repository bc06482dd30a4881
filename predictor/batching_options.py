"""How one model's requests are joined, as its deployment says it: options that begin with `batching`.

They stand among the options of the deployment's runtime, which does not know them and never sees them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mesh.errors import InvalidInput
from predictor.runtimes.options import read_options

_PREFIX = "batching"
_LIMITS = {
    "batching_max_rows": (0, 1 << 20),
    "batching_max_bytes": (1, 1 << 30),
    "batching_delay_us": (0, 10_000_000),
    "batching_max_waiting": (1, 1 << 16),
    "batching_concurrency": (1, 64),
}


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """batching: whether requests are joined at all, for a model that has a batch dimension.

    batching_max_rows: rows of a joined batch; 0 means as many as the model takes, which is the limit in any case.
    batching_max_bytes: input bytes of a joined batch, which are copied together; a larger request runs alone.
    batching_delay_us: microseconds that a request waits for others even when the model is free.
    batching_max_waiting: requests that wait for the model; one more is refused.
    batching_concurrency: batches that are computed at the same time, for a runtime that can.
    """

    batching: bool = True
    batching_max_rows: int = 0
    batching_max_bytes: int = 16 << 20
    batching_delay_us: int = 0
    batching_max_waiting: int = 1024
    batching_concurrency: int = 1

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InvalidInput(f"option '{name}' is {value}; it must be {low} to {high}", field=name)


def split_options(options: Mapping[str, str]) -> tuple[BatchingOptions, dict[str, str]]:
    """The batching options of a deployment, and the others, which are its runtime's. Raises InvalidInput."""
    ours = {name: text for name, text in options.items() if name.startswith(_PREFIX)}
    theirs = {name: text for name, text in options.items() if name not in ours}
    return read_options(ours, BatchingOptions), theirs
