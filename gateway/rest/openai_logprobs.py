"""Log-probabilities in the three forms that clients expect: OpenAI's chat, OpenAI's text, and vLLM's of the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.rest.bodies import Json
from gateway.rest.echo import echoed_tokens
from mesh.v1 import language_model_pb2 as lm


def chat_logprobs(positions: Sequence[lm.PositionLogprobs]) -> dict[str, Json]:
    """`logprobs` of a chat choice: an object per token."""
    content = [
        {**_token(position.chosen), "top_logprobs": [_token(token) for token in position.top]} for position in positions
    ]
    return {"content": content, "refusal": None}


class TextLogprobs:
    """`logprobs` of a text choice: lists side by side. num_top: how many of the likeliest tokens to show."""

    def __init__(self, text_offset: int, num_top: int) -> None:
        self.text_offset = text_offset
        self._num_top = num_top
        self._tokens: list[str] = []
        self._token_logprobs: list[float | None] = []
        self._top_logprobs: list[dict[str, float] | None] = []
        self._text_offset: list[int] = []

    def add_prompt(self, text: str, positions: Sequence[lm.PositionLogprobs]) -> None:
        """The tokens of an echoed prompt; nothing stands before the first, so it has no log-probability."""
        texts = echoed_tokens(text, [position.chosen for position in positions])
        first, *others = texts
        self._append(first[0], None, None, first[1])
        for (token, offset), position in zip(others, positions, strict=True):
            self._append(token, position.chosen.logprob, self._top(position), offset)
        self.text_offset = len(text)

    def add(self, positions: Iterable[lm.PositionLogprobs]) -> None:
        """The tokens of the output; moves the text offset on."""
        for position in positions:
            token = position.chosen
            self._append(token.text, token.logprob, self._top(position), self.text_offset)
            self.text_offset += len(token.text)

    def to_json(self) -> dict[str, Json]:
        """OpenAI's object."""
        return {
            "tokens": self._tokens,
            "token_logprobs": self._token_logprobs,
            "top_logprobs": self._top_logprobs,
            "text_offset": self._text_offset,
        }

    def _top(self, position: lm.PositionLogprobs) -> dict[str, float]:
        return {other.text: other.logprob for other in position.top[: self._num_top]}

    def _append(self, token: str, logprob: float | None, top: dict[str, float] | None, offset: int) -> None:
        self._tokens.append(token)
        self._token_logprobs.append(logprob)
        self._top_logprobs.append(top)
        self._text_offset.append(offset)


def prompt_logprobs(positions: Sequence[lm.PositionLogprobs], num_top: int) -> list[Json]:
    """vLLM's list: null for the first token, then for each an object, token id → entry, the prompt's own token first.

    The rank of a token that is not among the likeliest is not known: null.
    """
    return [None, *(_entries(position, num_top) for position in positions)]


def _entries(position: lm.PositionLogprobs, num_top: int) -> dict[str, Json]:
    chosen = position.chosen
    rank = next((rank for rank, token in enumerate(position.top, 1) if token.token_id == chosen.token_id), None)
    entries = {str(chosen.token_id): _entry(chosen, rank)}
    for rank, token in enumerate(position.top[:num_top], 1):
        entries.setdefault(str(token.token_id), _entry(token, rank))
    return entries


def _entry(token: lm.TokenLogprob, rank: int | None) -> dict[str, Json]:
    return {"logprob": token.logprob, "rank": rank, "decoded_token": token.text}


def _token(token: lm.TokenLogprob) -> dict[str, Json]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.token_bytes)}
