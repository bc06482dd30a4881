"""The bodies that OpenAI's clients get: whole completions and the chunks of streamed ones.

Built from what a generation said, and from nothing else: identity and time are arguments, so that golden files can
hold them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.generation import finish_reason_name
from gateway.rest.bodies import Json
from mesh.v1 import language_model_pb2 as lm


@dataclass(slots=True)
class Choice:
    """What one generation has said so far. text_offset: of the next token in the text, for `logprobs.text_offset`."""

    index: int
    texts: list[str] = field(default_factory=list)
    logprobs: list[lm.PositionLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    usage: lm.Usage = field(default_factory=lm.Usage)
    digest: str = ""
    text_offset: int = 0

    def add(self, message: lm.GenerateResponse) -> None:
        """Take in the next message."""
        if message.HasField("start"):
            self.digest = message.start.model_digest
            self.usage.prompt_tokens = message.start.prompt_tokens
        if message.text:
            self.texts.append(message.text)
        # End-of-text is a token, and no part of the text.
        self.logprobs.extend(position for position in message.logprobs if not _is_special(position))
        if message.finish_reason:
            self.finish_reason = finish_reason_name(message.finish_reason)
            self.usage = message.usage

    def forget_sent(self) -> None:
        """Drop what a chunk has carried to the client."""
        self.texts.clear()
        self.logprobs.clear()

    @property
    def text(self) -> str:
        return "".join(self.texts)


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

    def whole(self, choices: Sequence[Choice], usage: Json, *, with_logprobs: bool) -> dict[str, Json]:
        """The response to a request that does not stream."""
        entries = [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None},
                "logprobs": chat_logprobs(choice.logprobs) if with_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ]
        return self._around("chat.completion", choices[0].digest, entries) | {"usage": usage}

    def first_chunk(self, choice: Choice) -> dict[str, Json]:
        """The chunk that opens a choice: it has the role."""
        return self._chunk(choice, {"role": "assistant", "content": ""}, None, None)

    def chunk(self, choice: Choice, text: str, logprobs: Sequence[lm.PositionLogprobs]) -> dict[str, Json]:
        """A chunk with new text."""
        return self._chunk(choice, {"content": text}, chat_logprobs(logprobs) if logprobs else None, None)

    def last_chunk(self, choice: Choice) -> dict[str, Json]:
        """The chunk that says why a choice ended."""
        return self._chunk(choice, {}, None, choice.finish_reason)

    def usage_chunk(self, choice: Choice, usage: Json) -> dict[str, Json]:
        """The chunk that ends a stream whose client asked for the usage."""
        return self._around("chat.completion.chunk", choice.digest, []) | {"usage": usage}

    def _chunk(self, choice: Choice, delta: Json, logprobs: Json, finish_reason: str | None) -> dict[str, Json]:
        entry = {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._around("chat.completion.chunk", choice.digest, [entry])


class TextBodies(Envelope):
    """Bodies of /v1/completions."""

    __slots__ = ()

    def whole(self, choices: Sequence[Choice], usage: Json, *, with_logprobs: bool) -> dict[str, Json]:
        """The response to a request that does not stream."""
        entries = [
            {
                "index": choice.index,
                "text": choice.text,
                "logprobs": text_logprobs(choice, choice.logprobs) if with_logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ]
        return self._around("text_completion", choices[0].digest, entries) | {"usage": usage}

    def first_chunk(self, choice: Choice) -> None:
        """A text completion has nothing to say before its first text."""

    def chunk(self, choice: Choice, text: str, logprobs: Sequence[lm.PositionLogprobs]) -> dict[str, Json]:
        """A chunk with new text."""
        return self._chunk(choice, text, text_logprobs(choice, logprobs) if logprobs else None, None)

    def last_chunk(self, choice: Choice) -> dict[str, Json]:
        """The chunk that says why a choice ended."""
        return self._chunk(choice, "", None, choice.finish_reason)

    def usage_chunk(self, choice: Choice, usage: Json) -> dict[str, Json]:
        """The chunk that ends a stream whose client asked for the usage."""
        return self._around("text_completion", choice.digest, []) | {"usage": usage}

    def _chunk(self, choice: Choice, text: str, logprobs: Json, finish_reason: str | None) -> dict[str, Json]:
        entry = {"index": choice.index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._around("text_completion", choice.digest, [entry])


Bodies = ChatBodies | TextBodies


def usage_json(choices: Sequence[Choice], num_choices: int) -> dict[str, Json]:
    """Tokens over all choices; `num_choices` to a prompt, which counts once."""
    prompts = choices[::num_choices]
    prompt_tokens = sum(choice.usage.prompt_tokens for choice in prompts)
    output_tokens = sum(choice.usage.output_tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(choice.usage.cached_tokens for choice in prompts)},
    }


def chat_logprobs(positions: Sequence[lm.PositionLogprobs]) -> dict[str, Json]:
    """`logprobs` of a chat choice: an object per token."""
    content = [
        {**_token(position.chosen), "top_logprobs": [_token(token) for token in position.top]} for position in positions
    ]
    return {"content": content, "refusal": None}


def text_logprobs(choice: Choice, positions: Sequence[lm.PositionLogprobs]) -> dict[str, Json]:
    """`logprobs` of a text choice: lists side by side; moves the choice's text offset on."""
    lists: dict[str, list[Json]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for position in positions:
        token = position.chosen
        lists["tokens"].append(token.text)
        lists["token_logprobs"].append(token.logprob)
        lists["top_logprobs"].append({other.text: other.logprob for other in position.top})
        lists["text_offset"].append(choice.text_offset)
        choice.text_offset += len(token.text)
    return dict(lists)


def _token(token: lm.TokenLogprob) -> dict[str, Json]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.token_bytes)}


def _is_special(position: lm.PositionLogprobs) -> bool:
    return not position.chosen.text and not position.chosen.token_bytes
