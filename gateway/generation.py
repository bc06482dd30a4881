"""What one Generate call was asked and what it has said so far, for the prediction log and the metrics.

Fed with parsed messages by the REST fronts and with bytes by the gRPC front; bytes are parsed only when the record is
written, on the log's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from gateway import wire
from mesh.v1 import language_model_pb2 as lm

_TOKEN_IDS_FIELD = lm.GenerateResponse.TOKEN_IDS_FIELD_NUMBER
_FINISH_REASONS = {lm.FINISH_REASON_STOP: "stop", lm.FINISH_REASON_LENGTH: "length", lm.FINISH_REASON_ABORT: "abort"}


@dataclass(slots=True)
class Generation:
    """started: when the request came to the gateway, on `clock`. max_bytes: how many response bytes are kept."""

    request: lm.GenerateRequest | bytes
    started: float
    clock: Callable[[], float]
    max_bytes: int
    first_token_s: float | None = None
    size_bytes: int = 0
    truncated: bool = False
    start: lm.GenerationStart | None = None
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: lm.FinishReason.ValueType = lm.FINISH_REASON_UNSPECIFIED
    usage: lm.Usage | None = None
    timings: lm.Timings | None = None
    _unparsed: list[bytes] = field(default_factory=list)

    def observe(self, response: lm.GenerateResponse) -> None:
        """Take in a message that goes to the client."""
        if self.first_token_s is None and response.token_ids:
            self.first_token_s = self.clock() - self.started
        self._fold(response)

    def observe_bytes(self, response: bytes) -> None:
        """As `observe`, without parsing. Beyond `max_bytes` the message is not kept, and the record says so."""
        if self.first_token_s is None and wire.has_field(response, _TOKEN_IDS_FIELD):
            self.first_token_s = self.clock() - self.started
        if self.size_bytes + len(response) > self.max_bytes:
            self.truncated = True
            return
        self.size_bytes += len(response)
        self._unparsed.append(response)

    def record(self) -> dict[str, Any]:
        """The generation as the prediction log shows it. May take a while: not for the event loop."""
        request = self._parsed_request()
        for message in self._unparsed:
            self._fold(lm.GenerateResponse.FromString(message))
        self._unparsed.clear()
        start = self.start or lm.GenerationStart()
        record: dict[str, Any] = {
            "prompt": _prompt(request),
            "rendered_prompt": start.rendered_prompt or None,
            "sampling": _sampling(request.sampling, start.seed if self.start else None),
            "output": {"text": "".join(self.texts), "token_ids": self.token_ids},
            "finish_reason": finish_reason_name(self.finish_reason),
            "usage": self._usage(),
            "timings": self._timings(),
            "replica": start.replica or None,
        }
        if self.truncated:
            record["truncated"] = True
        return record

    def _parsed_request(self) -> lm.GenerateRequest:
        if isinstance(self.request, bytes):
            try:
                self.request = lm.GenerateRequest.FromString(self.request)
            except DecodeError:
                self.request = lm.GenerateRequest()
        return self.request

    def _fold(self, response: lm.GenerateResponse) -> None:
        if response.HasField("start"):
            self.start = response.start
        if response.text:
            self.texts.append(response.text)
            self.size_bytes += len(response.text)
        self.token_ids.extend(response.token_ids)
        if response.finish_reason:
            self.finish_reason = response.finish_reason
            self.usage, self.timings = response.usage, response.timings

    def _usage(self) -> dict[str, int]:
        # A cut stream has no usage message: what was seen counts.
        prompt_tokens = self.usage.prompt_tokens if self.usage else self.start.prompt_tokens if self.start else 0
        return {
            "prompt_tokens": prompt_tokens,
            "cached_tokens": self.usage.cached_tokens if self.usage else 0,
            "output_tokens": self.usage.output_tokens if self.usage else len(self.token_ids),
        }

    def _timings(self) -> dict[str, float | None]:
        timings: dict[str, float | None] = {"first_token_s": _rounded(self.first_token_s)}
        if self.timings is not None:
            timings["engine_queue_s"] = _rounded(self.timings.queue_s)
            timings["engine_first_token_s"] = _rounded(self.timings.first_token_s)
            timings["engine_total_s"] = _rounded(self.timings.total_s)
        return timings


def finish_reason_name(reason: lm.FinishReason.ValueType) -> str | None:
    """The word that the REST protocols use; None while the generation runs."""
    return _FINISH_REASONS.get(reason)


def _prompt(request: lm.GenerateRequest) -> dict[str, Any] | None:
    match request.WhichOneof("prompt"):
        case "text":
            return {"text": request.text}
        case "token_ids":
            return {"token_ids": list(request.token_ids.ids)}
        case "messages":
            messages = request.messages.messages
            return {"messages": [{"role": message.role, "content": message.content} for message in messages]}
        case _:
            return None


def _sampling(sampling: lm.SamplingParameters, seed: int | None) -> dict[str, Any]:
    """The parameters that were given, and the seed that was used."""
    given: dict[str, Any] = {
        descriptor.name: list(value) if descriptor.is_repeated else value for descriptor, value in sampling.ListFields()
    }
    if seed is not None:
        given["seed"] = seed
    return given


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
