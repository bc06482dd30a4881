"""The bodies that clients of OpenAI's responses get: whole ones, and the events of streamed ones.

Built from the request and from what the parts of the output hold: identity and time are arguments, so that golden files
can hold them. Reference: the OpenAI API's "Responses" and "Streaming events".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.rest.bodies import Json
from gateway.rest.openai_logprobs import chat_logprobs
from gateway.rest.output_parts import Change, OutputParts, Part, What
from gateway.rest.responses_requests import NamedFunction, ResponsesRequest
from mesh.errors import InvalidInput, MeshError, Overloaded
from mesh.v1 import language_model_pb2 as lm

Body = dict[str, Json]

IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED = "in_progress", "completed", "incomplete", "failed"


@dataclass(frozen=True, slots=True)
class ResponseBodies:
    """What all bodies of one response have in common. request_id: of which the ids of its items are made, too."""

    request_id: str
    created_at: int
    asked: ResponsesRequest

    def whole(self, parts: OutputParts) -> Body:
        """The response, once its output has ended."""
        status = INCOMPLETE if _is_cut(parts) else COMPLETED
        details = {"reason": "max_output_tokens"} if status == INCOMPLETE else None
        output = [self.item(part, self.status_of(part, parts)) for part in parts.all]
        return self._response(status, output, incomplete_details=details, usage=_usage(parts.usage))

    def begun(self) -> Body:
        """The response before there is any output."""
        return self._response(IN_PROGRESS, [])

    def failed(self, parts: OutputParts, error: MeshError) -> Body:
        """The response that `error` ended, with the output so far."""
        output = [self.item(part, INCOMPLETE) for part in parts.all]
        return self._response(FAILED, output, error={"code": _code(error), "message": error.message})

    def item(self, part: Part, status: str) -> Body:
        """An item of the output."""
        if part.is_call:
            item = {"id": self.id_of(part), "type": "function_call", "status": status, "call_id": part.call_id}
            return item | {"name": part.name, "arguments": "" if status == IN_PROGRESS else part.text}
        content = [] if status == IN_PROGRESS else [_content(part)]
        item = {"id": self.id_of(part), "type": "message", "status": status, "role": "assistant"}
        return item | {"content": content}

    def id_of(self, part: Part) -> str:
        """The id of a part's item."""
        return f"{'fc' if part.is_call else 'msg'}_{self.request_id}_{part.index}"

    def status_of(self, part: Part, parts: OutputParts) -> str:
        """Of an item that has ended: only the last one may be cut."""
        return INCOMPLETE if part is parts.all[-1] and _is_cut(parts) else COMPLETED

    def _response(
        self,
        status: str,
        output: list[Json],
        *,
        error: Body | None = None,
        incomplete_details: Body | None = None,
        usage: Body | None = None,
    ) -> Body:
        asked = self.asked
        return {
            "id": f"resp_{self.request_id}",
            "object": "response",
            "created_at": self.created_at,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": incomplete_details,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "metadata": asked.metadata or {},
            "model": asked.model,
            "output": output,
            "parallel_tool_calls": not asked.one_call,
            "previous_response_id": None,
            "store": False,
            "temperature": 1.0 if asked.temperature is None else asked.temperature,
            "text": {"format": _format(asked)},
            "tool_choice": _choice(asked),
            "tools": [tool.model_dump() for tool in asked.tools or ()],
            "top_logprobs": asked.top_logprobs or 0,
            "top_p": 1.0 if asked.top_p is None else asked.top_p,
            "truncation": "disabled",
            "usage": usage,
        }


class ResponseEvents:
    """The events of one streamed response, numbered from 0."""

    def __init__(self, bodies: ResponseBodies) -> None:
        self._bodies = bodies
        self._next_number = 0

    def opening(self) -> Iterator[Body]:
        """The events before there is any output."""
        yield self._event("response.created", response=self._bodies.begun())
        yield self._event("response.in_progress", response=self._bodies.begun())

    def changed(self, change: Change, parts: OutputParts) -> Iterator[Body]:
        """What has happened to an item."""
        match change.what:
            case What.BEGAN:
                yield from self._began(change.part)
            case What.GREW:
                yield self._grew(change)
            case What.ENDED:
                yield from self._ended(change.part, self._bodies.status_of(change.part, parts))

    def closing(self, parts: OutputParts) -> Iterator[Body]:
        """The event after the last item, with the whole response."""
        response = self._bodies.whole(parts)
        yield self._event(f"response.{response['status']}", response=response)

    def failing(self, parts: OutputParts, error: MeshError) -> Iterator[Body]:
        """The events that end a stream early. Stock clients raise the first one, by its `error`."""
        details = {"code": error.openai_code, "message": error.message, "param": error.field}
        yield self._event("error", **details, error={"type": error.openai_type, **details})
        yield self._event("response.failed", response=self._bodies.failed(parts, error))

    def _began(self, part: Part) -> Iterator[Body]:
        item = self._bodies.item(part, IN_PROGRESS)
        yield self._event("response.output_item.added", output_index=part.index, item=item)
        if not part.is_call:
            yield self._of_content("response.content_part.added", part, part=_content(Part(part.index)))

    def _grew(self, change: Change) -> Body:
        part = change.part
        if part.is_call:
            return self._of_item("response.function_call_arguments.delta", part, delta=change.text)
        logprobs = chat_logprobs(change.logprobs)["content"]
        return self._of_content("response.output_text.delta", part, delta=change.text, logprobs=logprobs)

    def _ended(self, part: Part, status: str) -> Iterator[Body]:
        if part.is_call:
            name = "response.function_call_arguments.done"
            yield self._of_item(name, part, name=part.name, arguments=part.text)
        else:
            logprobs = chat_logprobs(part.logprobs)["content"]
            yield self._of_content("response.output_text.done", part, text=part.text, logprobs=logprobs)
            yield self._of_content("response.content_part.done", part, part=_content(part))
        item = self._bodies.item(part, status)
        yield self._event("response.output_item.done", output_index=part.index, item=item)

    def _of_content(self, kind: str, about: Part, **fields: Json) -> Body:
        return self._of_item(kind, about, content_index=0, **fields)

    def _of_item(self, kind: str, about: Part, **fields: Json) -> Body:
        return self._event(kind, item_id=self._bodies.id_of(about), output_index=about.index, **fields)

    def _event(self, kind: str, **fields: Json) -> Body:
        number = self._next_number
        self._next_number += 1
        return {"type": kind, "sequence_number": number, **fields}


def _content(part: Part) -> Body:
    logprobs = chat_logprobs(part.logprobs)["content"]
    return {"type": "output_text", "text": part.text, "annotations": [], "logprobs": logprobs}


def _choice(asked: ResponsesRequest) -> Json:
    choice = asked.tool_choice
    return choice.model_dump() if isinstance(choice, NamedFunction) else choice or "auto"


def _format(asked: ResponsesRequest) -> Body:
    wanted = asked.format
    return wanted.model_dump(by_alias=True) if wanted.type == "json_schema" else {"type": wanted.type}


def _is_cut(parts: OutputParts) -> bool:
    return parts.finish_reason == lm.FINISH_REASON_LENGTH


def _code(error: MeshError) -> str:
    """Of the few that a response's error may have."""
    if isinstance(error, Overloaded):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidInput) else "server_error"


def _usage(usage: lm.Usage) -> Body:
    return {
        "input_tokens": usage.prompt_tokens,
        # What goes into the cache is not counted here.
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
