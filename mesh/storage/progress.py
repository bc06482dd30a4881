"""What a fetch tells while it runs: which stage, how many bytes of how many; not who looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Stage = Literal["resolve", "download", "verify", "unpack"]

# (stage, done_bytes, total_bytes or None where nobody knows it), called on the event loop.
Report = Callable[[Stage, int, int | None], None]

# done_bytes, called from inside a loop over chunks; it may raise to end that loop.
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """One sign of life of the fetch of `uri`; `total_bytes` is None while the size is not known."""

    uri: str
    stage: Stage
    done_bytes: int
    total_bytes: int | None
