"""The bodies that OpenAI's clients get: whole completions and the chunks of streamed ones.

Built from what the choices hold, and from nothing else: identity and time are arguments, so that golden files can
hold them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.rest.bodies import Json
from gateway.rest.openai_choices import Choice
from gateway.rest.openai_logprobs import TextLogprobs, chat_logprobs, prompt_logprobs
from mesh.v1 import language_model_pb2 as lm


@dataclass(frozen=True, slots=True)
class Envelope:
    """What all bodies of one response have in common."""

    id: str
    created: int
    model: str

    def _around(self, kind: str, digest: str, choices: list[Json]) -> dict[str, Json]:
        body: dict[str, Json] = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        if digest:
            body["system_fingerprint"] = f"fp_{digest[:12]}"
        body["choices"] = choices
        return body


class ChatBodies(Envelope):
    """Bodies of /v1/chat/completions."""

    __slots__ = ()

    def whole(self, choices: Sequence[Choice], usage: Json) -> dict[str, Json]:
        """The response to a request that does not stream. vLLM has the prompt's log-probabilities beside the usage."""
        entries = [
            {
                "index": choice.index,
                "message": _message(choice),
                "logprobs": None if choice.form.logprobs is None else chat_logprobs(choice.logprobs),
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for choice in choices
        ]
        return (
            self._around("chat.completion", choices[0].prompt.digest, entries)
            | {"usage": usage}
            | _prompt_part(choices[0])
        )

    def chunks(self, choice: Choice) -> Iterator[dict[str, Json]]:
        """What the choice holds, as chunks: the first has the role, the last the reason of its end."""
        if not choice.is_open:
            choice.is_open = True
            yield self._chunk(choice, {"role": "assistant", "content": ""}, None)
        if choice.texts or choice.logprobs:
            yield self._chunk(
                choice, {"content": choice.text}, chat_logprobs(choice.logprobs) if choice.logprobs else None
            )
        if choice.tool_calls:
            yield self._chunk(choice, {"tool_calls": [_call_delta(call) for call in choice.tool_calls]}, None)
        if choice.finish_reason is not None:
            yield self._chunk(choice, {}, None, choice.finish_reason)
        choice.forget_sent()

    def usage_chunk(self, choice: Choice, usage: Json) -> dict[str, Json]:
        """The chunk that ends a stream whose client asked for the usage."""
        return self._around("chat.completion.chunk", choice.prompt.digest, []) | {"usage": usage}

    def _chunk(self, choice: Choice, delta: Json, logprobs: Json, finish_reason: str | None = None) -> dict[str, Json]:
        entry = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._around("chat.completion.chunk", choice.prompt.digest, [entry | _stop_part(choice, finish_reason)])


class TextBodies(Envelope):
    """Bodies of /v1/completions."""

    __slots__ = ()

    def whole(self, choices: Sequence[Choice], usage: Json) -> dict[str, Json]:
        """The response to a request that does not stream."""
        entries = [
            {
                "index": choice.index,
                "text": (choice.prompt.text if choice.form.echo else "") + choice.text,
                "logprobs": _text_logprobs(choice, with_echo=choice.form.echo),
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            | _prompt_part(choice)
            for choice in choices
        ]
        return self._around("text_completion", choices[0].prompt.digest, entries) | {"usage": usage}

    def chunks(self, choice: Choice) -> Iterator[dict[str, Json]]:
        """What the choice holds, as chunks: the first has the echo if there is one, the last the reason of its end."""
        if not choice.is_open and choice.form.echo:
            held, choice.logprobs = choice.logprobs, []
            yield self._chunk(choice, choice.prompt.text, _text_logprobs(choice, with_echo=True))
            choice.logprobs = held
        choice.is_open = True
        if choice.texts or choice.logprobs:
            yield self._chunk(choice, choice.text, _text_logprobs(choice) if choice.logprobs else None)
        if choice.finish_reason is not None:
            yield self._chunk(choice, "", None, choice.finish_reason)
        choice.forget_sent()

    def usage_chunk(self, choice: Choice, usage: Json) -> dict[str, Json]:
        """The chunk that ends a stream whose client asked for the usage."""
        return self._around("text_completion", choice.prompt.digest, []) | {"usage": usage}

    def _chunk(self, choice: Choice, text: str, logprobs: Json, finish_reason: str | None = None) -> dict[str, Json]:
        entry = {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._around("text_completion", choice.prompt.digest, [entry | _stop_part(choice, finish_reason)])


Bodies = ChatBodies | TextBodies


def _message(choice: Choice) -> dict[str, Json]:
    """A message of calls alone has no text, which is null and not empty."""
    calls = _whole_calls(choice.tool_calls)
    message = {"role": "assistant", "content": choice.text or (None if calls else ""), "refusal": None}
    return message | ({"tool_calls": calls} if calls else {})


def _whole_calls(deltas: Sequence[lm.ToolCallDelta]) -> list[Json]:
    """The calls, their parts joined."""
    calls: dict[int, lm.ToolCallDelta] = {}
    arguments: dict[int, list[str]] = {}
    for delta in deltas:
        calls.setdefault(delta.index, delta)
        arguments.setdefault(delta.index, []).append(delta.arguments)
    return [
        _call(call.id, {"name": call.name, "arguments": "".join(arguments[index])})
        for index, call in sorted(calls.items())
    ]


def _call_delta(delta: lm.ToolCallDelta) -> dict[str, Json]:
    """OpenAI's form: id, type and name in a call's first part only."""
    if not delta.id and not delta.name:
        return {"index": delta.index, "function": {"arguments": delta.arguments}}
    return {"index": delta.index, **_call(delta.id, {"name": delta.name, "arguments": delta.arguments})}


def _call(call_id: str, function: dict[str, Json]) -> dict[str, Json]:
    return {"id": call_id, "type": "function", "function": function}


def _text_logprobs(choice: Choice, *, with_echo: bool = False) -> dict[str, Json] | None:
    """`logprobs` of what the choice holds; moves its text offset on."""
    if choice.form.logprobs is None:
        if with_echo:
            choice.text_offset = len(choice.prompt.text)
        return None
    lists = TextLogprobs(choice.text_offset, choice.form.logprobs)
    if with_echo:
        lists.add_prompt(choice.prompt.text, choice.prompt.logprobs)
    lists.add(choice.logprobs)
    choice.text_offset = lists.text_offset
    return lists.to_json()


def _prompt_part(choice: Choice) -> dict[str, Json]:
    wanted = choice.form.prompt_logprobs
    return {} if wanted is None else {"prompt_logprobs": prompt_logprobs(choice.prompt.logprobs, wanted)}


def _stop_part(choice: Choice, finish_reason: str | None) -> dict[str, Json]:
    return {} if finish_reason is None else {"stop_reason": choice.stop_reason}
