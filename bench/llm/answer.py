"""What one request looked like to its client. Knows no protocol: clients yield parts, the load generator times them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol


class BadAnswer(Exception):
    """A server refused the request, broke the stream, or did not say how many tokens it made."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server counted, in tokens."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Part:
    """One message of a streamed answer. has_text: a reader would see something new."""

    has_text: bool
    usage: Usage | None = None


class Client(Protocol):
    """Asks one server. All its requests may run at the same time."""

    def complete(self, prompt: str, max_tokens: int) -> AsyncGenerator[Part, None]:
        """Continue `prompt` greedily by exactly `max_tokens` tokens. Closing the generator cancels the request.

        The last part has the usage. Raises BadAnswer.
        """
        ...

    async def close(self) -> None:
        """Give back the connections."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """One request from its start to its end, in seconds of `time.perf_counter`.

    part_times: when each part that had text came. is_cancelled: the client went away on purpose. error: why it failed.
    """

    started_at: float
    ended_at: float
    part_times: tuple[float, ...] = ()
    usage: Usage | None = None
    is_cancelled: bool = False
    error: str | None = None
