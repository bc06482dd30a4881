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
_FINISH_REASONS = {
    lm.FINISH_REASON_STOP: "stop",
    lm.FINISH_REASON_LENGTH: "length",
    lm.FINISH_REASON_ABORT: "abort",
    lm.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


@dataclass(slots=True)
class Output:
    """What one of a generation's outputs has said so far. replica: who says it now."""

    index: int
    replica: str = ""
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    tool_calls: dict[int, dict[str, str]] = field(default_factory=dict)
    finish_reason: lm.FinishReason.ValueType = lm.FINISH_REASON_UNSPECIFIED
    matched_stop: str = ""
    usage: lm.Usage | None = None
    timings: lm.Timings | None = None

    def add(self, response: lm.GenerateResponse) -> int:
        """Take in the next message; returns about how many bytes are kept of it beside the tokens."""
        if response.text:
            self.texts.append(response.text)
        self.token_ids.extend(response.token_ids)
        for delta in response.tool_calls:
            call = self.tool_calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += delta.id
            call["name"] += delta.name
            call["arguments"] += delta.arguments
        if response.finish_reason:
            self.finish_reason, self.matched_stop = response.finish_reason, response.matched_stop
            self.usage, self.timings = response.usage, response.timings
        return len(response.text) + sum(len(delta.arguments) for delta in response.tool_calls)

    def record(self) -> dict[str, Any]:
        """Text and tokens, and what not every output has."""
        record: dict[str, Any] = {"text": "".join(self.texts), "token_ids": self.token_ids}
        if self.tool_calls:
            record["tool_calls"] = [call for _, call in sorted(self.tool_calls.items())]
        if self.matched_stop:
            record["matched_stop"] = self.matched_stop
        return record


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
    outputs: dict[int, Output] = field(default_factory=dict)
    moves: list[dict[str, Any]] = field(default_factory=list)
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
        first, *others = [self.outputs[index] for index in sorted(self.outputs)] or [Output(0)]
        record: dict[str, Any] = {
            "prompt": _prompt(request),
            "rendered_prompt": start.rendered_prompt or None,
            "sampling": _sampling(request.sampling, start.seed if self.start else None),
            "output": first.record(),
            "finish_reason": finish_reason_name(first.finish_reason),
            "usage": self._usage(),
            "timings": self._timings(),
            "replica": start.replica or None,
        }
        if others:
            record["other_outputs"] = [
                {"index": one.index, **one.record(), "finish_reason": finish_reason_name(one.finish_reason)}
                for one in others
            ]
        if self.moves:
            record["moves"] = self.moves
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
            self.size_bytes += len(response.start.prompt_text)
        if not (response.text or response.token_ids or response.tool_calls or response.finish_reason):
            return  # about the prompt, and no output yet
        output = self.outputs.get(response.index)
        if output is None:
            replica = self.start.replica if self.start else ""
            output = self.outputs[response.index] = Output(response.index, replica)
        if response.moved_to:
            self.moves.append(
                {
                    "output": output.index,
                    "from": output.replica,
                    "to": response.moved_to,
                    "after_tokens": len(output.token_ids),
                }
            )
            output.replica = response.moved_to
        self.size_bytes += output.add(response)

    def _usage(self) -> dict[str, int]:
        """The prompt once, and the tokens of all outputs. A cut output has no usage message: what was seen counts."""
        usages = [one.usage for _, one in sorted(self.outputs.items()) if one.usage is not None]
        seen = lm.Usage(prompt_tokens=self.start.prompt_tokens if self.start else 0)
        prompt = usages[0] if usages else seen
        return {
            "prompt_tokens": prompt.prompt_tokens,
            "cached_tokens": prompt.cached_tokens,
            "output_tokens": sum(
                one.usage.output_tokens if one.usage else len(one.token_ids) for one in self.outputs.values()
            ),
        }

    def _timings(self) -> dict[str, float | None]:
        """Of several outputs: until the first token of any, and the end of the last."""
        timings: dict[str, float | None] = {"first_token_s": _rounded(self.first_token_s)}
        known = [one.timings for one in self.outputs.values() if one.timings is not None]
        if known:
            timings["engine_queue_s"] = _rounded(min(one.queue_s for one in known))
            timings["engine_first_token_s"] = _rounded(min(one.first_token_s for one in known))
            timings["engine_total_s"] = _rounded(max(one.total_s for one in known))
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
            return _conversation(request.messages)
        case _:
            return None


def _conversation(conversation: lm.ChatMessages) -> dict[str, Any]:
    """Messages and tools with the fields that are set; JSON stays the text that it was."""
    messages = []
    for message in conversation.messages:
        given = {"role": message.role, "content": message.content}
        given |= {descriptor.name: value for descriptor, value in message.ListFields()}
        messages.append(given)
    prompt: dict[str, Any] = {"messages": messages}
    if conversation.tools_json:
        prompt["tools_json"] = conversation.tools_json
    if conversation.tool_choice:
        prompt["tool_choice"] = conversation.tool_choice
    return prompt


def _sampling(sampling: lm.SamplingParameters, seed: int | None) -> dict[str, Any]:
    """The parameters that were given, and the seed that was used."""
    given: dict[str, Any] = {}
    for descriptor, value in sampling.ListFields():
        match descriptor.name:
            case "logit_bias":
                given["logit_bias"] = {str(token_id): bias for token_id, bias in sorted(value.items())}
            case "guide":
                given["guide"] = _guide(value)
            case name:
                given[name] = list(value) if descriptor.is_repeated else value
    if seed is not None:
        given["seed"] = seed
    return given


def _guide(guide: lm.Guide) -> dict[str, Any]:
    kind = guide.WhichOneof("kind")
    if kind is None:
        return {}
    return {kind: list(guide.choices.texts) if kind == "choices" else getattr(guide, kind)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
