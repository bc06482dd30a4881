"""What an engine accepts: every field of a request is checked here, once, before any block is touched.

What can never fit is refused at once, since a request that waits for room that cannot come would block all behind it.
A refusal is one sentence that names the field, its value and the limit.
"""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import dataclass

from mesh.errors import InvalidInput, NotFound, PromptTooLong
from predictor.llm.sequence import GenerationRequest, Request, ScoreRequest
from predictor.llm.step import SamplingParams

MAX_TEMPERATURE = 2.0
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_SALT_CHARS = 256
MAX_PRIORITY = 1000
MAX_SEED = 2**64 - 1
MAX_N = 128
MAX_SAMPLE_INDEX = 2**31 - 1 - MAX_N
MAX_PENALTY = 2.0
MAX_REPETITION_PENALTY = 100.0
MAX_LOGIT_BIAS = 100.0
MAX_LOGIT_BIASES = 1024
# A text makes up to three token sequences: as it is, and with and without a space before it.
MAX_BAD_WORDS = 3 * 64
MAX_BAD_WORD_TOKENS = 64


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What a request must keep to.

    vocab_size: token ids are below it.
    max_context_tokens: longest prompt and output together: the model's context, or the KV cache if that is smaller.
    max_num_outputs: of one request; more could never be in the engine together.
    """

    vocab_size: int
    max_context_tokens: int
    max_num_outputs: int = MAX_N

    def check(self, request: Request) -> None:
        """Raise InvalidInput (or PromptTooLong) unless the engine can run `request` to its end."""
        if isinstance(request, GenerationRequest):
            self._check_generation(request)
        else:
            self._check_score(request)
        _check_range("priority", request.priority, -MAX_PRIORITY, MAX_PRIORITY)
        _check_count("cache_salt", request.cache_salt, MAX_SALT_CHARS, "characters")
        if request.adapter:
            raise NotFound(f"adapter {request.adapter[:64]!r} is not loaded; this model has none", field="adapter")

    def _check_generation(self, request: GenerationRequest) -> None:
        self._check_token_ids("prompt", request.prompt_token_ids)
        if not request.prompt_token_ids:
            raise InvalidInput("prompt is empty; give at least one token", field="prompt")
        _check_range("prompt_logprobs", request.num_prompt_logprobs, -1, MAX_LOGPROBS)
        # Nothing to generate makes sense only where something is said of the prompt.
        shortest = 0 if request.num_prompt_logprobs >= 0 else 1
        self._check_fits("prompt", len(request.prompt_token_ids), "the shortest output", shortest)
        _check_range("max_tokens", request.max_tokens, shortest, self.max_context_tokens)
        self._check_fits("prompt", len(request.prompt_token_ids), "max_tokens", request.max_tokens)
        _check_range("min_tokens", request.min_tokens, 0, request.max_tokens)
        self._check_outputs(request)
        self._check_token_ids("stop_token_ids", request.stop_token_ids)
        _check_count("stop_token_ids", request.stop_token_ids, MAX_STOP_TOKEN_IDS, "tokens")
        _check_stop_strings(request.stop)
        self._check_bad_words(request.bad_words)
        check_sampling(request.sampling)
        self._check_token_ids("logit_bias", tuple(token_id for token_id, _ in request.sampling.logit_bias))

    def _check_outputs(self, request: GenerationRequest) -> None:
        _check_range("n", request.n, 1, min(self.max_num_outputs, MAX_N))
        _check_range("sample_index", request.sample_index, 0, MAX_SAMPLE_INDEX)
        self._check_token_ids("continue_from", request.continue_from)
        _check_count("continue_from", request.continue_from, request.max_tokens, "tokens")
        if request.n > 1 and (request.continue_from or not request.max_tokens):
            what = "continue_from is given" if request.continue_from else "max_tokens is 0"
            raise InvalidInput(f"n is {request.n}; it must be 1 where {what}", field="n")

    def _check_bad_words(self, bad_words: tuple[tuple[int, ...], ...]) -> None:
        _check_count("bad_words", bad_words, MAX_BAD_WORDS, "token sequences")
        for word in bad_words:
            if not word:
                raise InvalidInput("bad_words has an empty one, which stands in every output", field="bad_words")
            _check_count("bad_words", word, MAX_BAD_WORD_TOKENS, "tokens in one word")
            self._check_token_ids("bad_words", word)

    def _check_score(self, request: ScoreRequest) -> None:
        for field, token_ids in (("prefix", request.prefix_token_ids), ("target", request.target_token_ids)):
            self._check_token_ids(field, token_ids)
            if not token_ids:
                raise InvalidInput(f"{field} is empty; give at least one token", field=field)
        self._check_fits("prefix", len(request.prefix_token_ids), "target", len(request.target_token_ids))

    def _check_fits(self, field: str, num_tokens: int, other: str, num_other: int) -> None:
        if num_tokens + num_other > self.max_context_tokens:
            raise PromptTooLong(
                f"{field} has {num_tokens} tokens and {other} adds {num_other}; "
                f"the model takes {self.max_context_tokens} together",
                field=field,
            )

    def _check_token_ids(self, field: str, token_ids: tuple[int, ...]) -> None:
        if token_ids and (min(token_ids) < 0 or max(token_ids) >= self.vocab_size):
            wrong = next(token_id for token_id in token_ids if not 0 <= token_id < self.vocab_size)
            raise InvalidInput(
                f"{field} has token id {wrong}; the vocabulary is 0 to {self.vocab_size - 1}", field=field
            )


def check_sampling(sampling: SamplingParams) -> None:
    _check_range("temperature", sampling.temperature, 0.0, MAX_TEMPERATURE)
    _check_range("top_k", sampling.top_k, 0, 2**31 - 1)
    _check_range("top_p", sampling.top_p, 0.0, 1.0)
    if sampling.top_p == 0.0:
        raise InvalidInput("top_p is 0.0; it must be above 0 and at most 1", field="top_p")
    _check_range("min_p", sampling.min_p, 0.0, 1.0)
    _check_range("seed", sampling.seed, 0, MAX_SEED)
    _check_range("logprobs", sampling.num_logprobs, -1, MAX_LOGPROBS)
    _check_range("repetition_penalty", sampling.repetition_penalty, 0.0, MAX_REPETITION_PENALTY)
    if sampling.repetition_penalty == 0.0:
        raise InvalidInput(
            f"repetition_penalty is 0.0; it must be above 0 and at most {MAX_REPETITION_PENALTY}",
            field="repetition_penalty",
        )
    _check_range("frequency_penalty", sampling.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_range("presence_penalty", sampling.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
    _check_count("logit_bias", sampling.logit_bias, MAX_LOGIT_BIASES, "entries")
    for token_id, bias in sampling.logit_bias:
        _check_range(f"logit_bias[{token_id}]", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)


def _check_stop_strings(stop: tuple[str, ...]) -> None:
    _check_count("stop", stop, MAX_STOP_STRINGS, "strings")
    for text in stop:
        if not text:
            raise InvalidInput("stop has an empty string, which would end every output at once", field="stop")
        _check_count("stop", text, MAX_STOP_STRING_CHARS, "characters in one string")


def _check_range(field: str, value: float, low: float, high: float) -> None:
    # Written so that NaN, which compares false with everything, is refused.
    if not (low <= value <= high and math.isfinite(value)):
        raise InvalidInput(f"{field} is {value}; it must be {low} to {high}", field=field)


def _check_count(field: str, items: Sized, limit: int, unit: str) -> None:
    if len(items) > limit:
        raise InvalidInput(f"{field} has {len(items)} {unit}; at most {limit} are taken", field=field)
