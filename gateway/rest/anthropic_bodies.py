"""The bodies that Anthropic's clients get: whole messages, and the events of streamed ones.

Built from what the parts of the output hold, and from nothing else: the id is an argument, so that golden files can
hold them. Reference: the Anthropic API's "Messages" and "Streaming messages".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic_core import from_json

from gateway.rest.bodies import Json
from gateway.rest.output_parts import Change, OutputParts, Part, What
from mesh.errors import Internal
from mesh.v1 import language_model_pb2 as lm

Body = dict[str, Json]

_STOP_REASONS = {
    lm.FINISH_REASON_STOP: "end_turn",
    lm.FINISH_REASON_LENGTH: "max_tokens",
    lm.FINISH_REASON_TOOL_CALLS: "tool_use",
}


@dataclass(frozen=True, slots=True)
class MessageBodies:
    """What all bodies of one answer have in common."""

    id: str
    model: str

    def whole(self, parts: OutputParts) -> Body:
        """The answer to a request that does not stream."""
        content = [_block(part) for part in parts.all]
        return self._message(content, _usage(parts.usage)) | _end(parts)

    def opening(self, parts: OutputParts) -> Iterator[Body]:
        """The events before the first block, once the prompt is read. How much of it was cached is told at the end."""
        message = self._message([], _usage(parts.usage)) | {"stop_reason": None, "stop_sequence": None}
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}

    def changed(self, change: Change) -> Iterator[Body]:
        """What has happened to a block, as events."""
        match change.what:
            case What.BEGAN:
                block = _call(change.part, {}) if change.part.is_call else {"type": "text", "text": ""}
                yield {"type": "content_block_start", "index": change.part.index, "content_block": block}
            case What.GREW:
                delta = (
                    {"type": "input_json_delta", "partial_json": change.text}
                    if change.part.is_call
                    else {"type": "text_delta", "text": change.text}
                )
                yield {"type": "content_block_delta", "index": change.part.index, "delta": delta}
            case What.ENDED:
                yield {"type": "content_block_stop", "index": change.part.index}

    def closing(self, parts: OutputParts) -> Iterator[Body]:
        """The events after the last block."""
        yield {"type": "message_delta", "delta": _end(parts), "usage": _usage(parts.usage)}
        yield {"type": "message_stop"}

    def _message(self, content: list[Json], usage: Body) -> Body:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "usage": usage,
        }


def _block(part: Part) -> Body:
    if not part.is_call:
        return {"type": "text", "text": part.text}
    return _call(part, _arguments(part.text) if part.text else {})


def _arguments(text: str) -> Body:
    """A call's arguments; those that max_tokens has cut, as far as they go, as the stock client reads a stream's.

    Raises Internal when they are no JSON object.
    """
    try:
        arguments = from_json(text, allow_partial=True)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise Internal("the model called a tool with arguments that are no JSON object")
    return arguments


def _call(part: Part, arguments: Json) -> Body:
    return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": arguments}


def _end(parts: OutputParts) -> Body:
    reason = "stop_sequence" if parts.matched_stop else _STOP_REASONS.get(parts.finish_reason, "end_turn")
    return {"stop_reason": reason, "stop_sequence": parts.matched_stop or None}


def _usage(usage: lm.Usage) -> Body:
    """The three kinds of input tokens sum to the length of the prompt; what goes into the cache is no kind here."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
