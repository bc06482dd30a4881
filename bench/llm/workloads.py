"""What the servers are asked: how many requests, how long, how many at a time, and which go away early.

All are closed loops: a client asks again as soon as it has its answer. A burst has a client for each request.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bench.llm.prompts import PromptWriter


@dataclass(frozen=True, slots=True)
class Request:
    """prompt_tokens: how many the prompt has. cancel_after_parts: go away after so many parts with text; 0: never."""

    prompt: str
    prompt_tokens: int
    max_tokens: int
    cancel_after_parts: int = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """Lengths in tokens. Where there are several, requests take them in turn.

    num_prefixes, prefix_tokens: beginnings that the prompts share, in turn; `prompt_tokens` come after them.
    cancel_every: every so many-th request goes away after 8 parts.
    """

    name: str
    concurrency: int
    num_requests: int
    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    num_prefixes: int = 0
    prefix_tokens: int = 0
    cancel_every: int = 0

    def scaled(self, share: float) -> Workload:
        """The same with a share of its requests, at least one; for a quick look, not for figures."""
        return dataclasses.replace(self, num_requests=max(1, round(share * self.num_requests)))

    def requests(self, writer: PromptWriter) -> list[Request]:
        """All requests, in the order in which they are to start."""
        prefixes = [writer.write(self.prefix_tokens) for _ in range(self.num_prefixes)] or [""]
        return [self._request(writer, i, prefixes[i % len(prefixes)]) for i in range(self.num_requests)]

    def _request(self, writer: PromptWriter, i: int, prefix: str) -> Request:
        own_tokens = self.prompt_tokens[i % len(self.prompt_tokens)]
        is_cancelled = self.cancel_every > 0 and i % self.cancel_every == self.cancel_every - 1
        return Request(
            writer.write(own_tokens, prefix),
            self.prefix_tokens + own_tokens,
            self.output_tokens[i % len(self.output_tokens)],
            _PARTS_BEFORE_CANCEL if is_cancelled else 0,
        )


_PARTS_BEFORE_CANCEL = 8
_SHORT, _LONG = (30,), (900,)

WORKLOADS = (
    Workload("chat c=1", 1, 8, _SHORT, (64,)),
    Workload("chat c=8", 8, 32, _SHORT, (64,)),
    Workload("chat c=32", 32, 96, _SHORT, (64,)),
    Workload("long c=1", 1, 5, _LONG, (16,)),
    Workload("long c=8", 8, 24, _LONG, (16,)),
    Workload("prefixes c=8", 8, 64, (30,), (32,), num_prefixes=8, prefix_tokens=600),
    Workload("burst 200", 200, 200, _SHORT, (32,)),
    # Lengths that do not divide each other, so that short and long, cancelled and whole meet in every mixture.
    Workload("mixed c=16", 16, 60, (30, 300, 120, 600), (64, 16, 32), cancel_every=5),
)
WARM_UP = Workload("warm-up", 8, 16, (30, 900), (16,))
