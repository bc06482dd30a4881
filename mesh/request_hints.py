"""What the pool is told of a request to a language model: its prefix, how much work it is, and how urgent.

Read off the message, without a tokenizer. Both ends of a call reckon the work alike: a gateway what it dispatches, a
replica what it reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from google.protobuf.message import DecodeError

from mesh.balancing import ANY, Request
from mesh.balancing.prefix import BYTES_PER_TOKEN, hash_text, hash_token_ids
from mesh.v1 import language_model_pb2 as lm

# What an output is reckoned at when its request sets no limit.
USUAL_OUTPUT_TOKENS = 256
# Reading this much takes about a millisecond.
MAX_READ_BYTES = 1 << 20


def generation_hint(request: lm.GenerateRequest) -> Request:
    """Of a request to generate."""
    return Request(_prefix(request, _salt(request)), cost=estimated_tokens(request), priority=request.priority or None)


def serialized_generation_hint(request: bytes) -> Request:
    """Of a GenerateRequest that passes as bytes; of one too large to be read in passing, and of no message, nothing."""
    if len(request) > MAX_READ_BYTES:
        return Request(cost=len(request) / BYTES_PER_TOKEN)
    try:
        return generation_hint(lm.GenerateRequest.FromString(request))
    except DecodeError:
        return ANY


def scoring_hint(request: lm.ScoreRequest) -> Request:
    """Of a request to score: where its first item's prefix is held; the others mostly share it."""
    prefix = _prefix(request.items[0], _salt(request)) if request.items else ()
    return Request(prefix, cost=estimated_tokens(request), priority=request.priority or None)


def estimated_tokens(request: lm.GenerateRequest | lm.ScoreRequest) -> float:
    """Tokens that the request has computed, as far as it shows."""
    if isinstance(request, lm.ScoreRequest):
        return 1 + request.ByteSize() / BYTES_PER_TOKEN
    sampling = request.sampling
    output = sampling.max_tokens if sampling.HasField("max_tokens") else USUAL_OUTPUT_TOKENS
    prompt = len(request.token_ids.ids) + len(request.text) / BYTES_PER_TOKEN
    if request.HasField("messages"):
        prompt = request.messages.ByteSize() / BYTES_PER_TOKEN
    return 1 + prompt + max(1, sampling.n) * max(0, output)


def _salt(request: lm.GenerateRequest | lm.ScoreRequest) -> str:
    """Prompts to other versions, or of other salts, find nothing of each other in a cache."""
    return f"{request.model_version}\n{request.cache_salt}"


def _prefix(prompt: lm.GenerateRequest | lm.ScoreRequest.Item, salt: str) -> Sequence[int]:
    if prompt.HasField("messages"):
        return hash_text(_parts(prompt.messages), salt)
    if prompt.HasField("token_ids"):
        return hash_token_ids(prompt.token_ids.ids, salt)
    return hash_text([prompt.text], salt)


def _parts(conversation: lm.ChatMessages) -> Iterator[str]:
    """The conversation as text that a longer one starts with; near enough to what a template makes of it."""
    yield conversation.tools_json
    for message in conversation.messages:
        yield f"\n{message.role}\n"
        yield message.content
        yield message.tool_calls_json
