"""What a caller says about a generation, and the engine's request that follows from it.

`GenerationOptions` has a default for everything; two fields are decided here when they are left open: the seed is
drawn, and the longest output is what is left of the context. Ranges are checked by the engine's limits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mesh.errors import InvalidInput
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.sequence import GenerationRequest
from predictor.llm.step import SamplingParams

MAX_BAD_WORDS = 64
MAX_BAD_WORD_CHARS = 64


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """Names and defaults are those of mesh.v1.SamplingParameters; None leaves the choice to the predictor.

    logprobs, prompt_logprobs: how many of the likeliest tokens to report beside the one that is there; -1 reports none
    at all. logit_bias: (token id, bias), by id.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int = -1
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[str, ...] = ()
    min_tokens: int = 0
    n: int = 1
    sample_index: int = 0
    prompt_logprobs: int = -1
    guide: GuideSpec | None = None


def build_request(
    request_id: str,
    prompt_token_ids: tuple[int, ...],
    options: GenerationOptions,
    *,
    max_context_tokens: int,
    draw_seed: Callable[[], int],
    bad_words: tuple[tuple[int, ...], ...] = (),
    continue_from: tuple[int, ...] = (),
    priority: int = 0,
    cache_salt: str = "",
) -> GenerationRequest:
    """The request as the engine takes it; a prompt that fills the context is left for the engine to refuse.

    bad_words: those of the options, as tokens.
    """
    return GenerationRequest(
        request_id=request_id,
        prompt_token_ids=prompt_token_ids,
        sampling=SamplingParams(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            seed=draw_seed() if options.seed is None else options.seed,
            num_logprobs=options.logprobs,
            repetition_penalty=options.repetition_penalty,
            frequency_penalty=options.frequency_penalty,
            presence_penalty=options.presence_penalty,
            logit_bias=options.logit_bias,
        ),
        max_tokens=_longest_output(options, len(prompt_token_ids), max_context_tokens),
        stop=options.stop,
        stop_token_ids=options.stop_token_ids,
        ignore_eos=options.ignore_eos,
        min_tokens=options.min_tokens,
        bad_words=bad_words,
        guide=options.guide,
        n=options.n,
        sample_index=options.sample_index,
        num_prompt_logprobs=options.prompt_logprobs,
        continue_from=continue_from,
        priority=priority,
        cache_salt=cache_salt,
    )


def bad_word_tokens(words: Sequence[str], encode: Callable[[str], Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Token sequences that must not be generated: each word as it begins a text, and as it follows a space.

    Raises InvalidInput for too many words, a long one, or one of nothing but spaces.
    """
    if len(words) > MAX_BAD_WORDS:
        raise InvalidInput(f"bad_words has {len(words)} texts; at most {MAX_BAD_WORDS} are taken", field="bad_words")
    sequences: set[tuple[int, ...]] = set()
    for word in words:
        if not word.strip() or len(word) > MAX_BAD_WORD_CHARS:
            raise InvalidInput(
                f"bad_words has a text of {len(word)} characters; it takes 1 to {MAX_BAD_WORD_CHARS}, not all spaces",
                field="bad_words",
            )
        sequences.update(tuple(encode(text)) for text in (word, word.lstrip(), f" {word.lstrip()}"))
    return tuple(sorted(sequences))


def parse_options(text: bytes) -> GenerationOptions:
    """Options from a JSON object with vLLM's names, as Triton's vLLM backend takes them: numbers may be texts.

    Raises InvalidInput that names the parameter.
    """
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("sampling_parameters is not JSON", field="sampling_parameters") from None
    if not isinstance(given, dict):
        raise InvalidInput("sampling_parameters must be a JSON object", field="sampling_parameters")
    unknown = sorted(given.keys() - _PARSERS.keys())
    if unknown:
        raise InvalidInput(
            f"sampling_parameters has the unknown '{unknown[0]}'; known are {', '.join(sorted(_PARSERS))}",
            field="sampling_parameters",
        )
    options = {name: _parsed(name, value) for name, value in given.items() if value is not None}
    guides = [options.pop(name) for name in _GUIDES if name in options]
    if len(guides) > 1:
        raise InvalidInput(f"sampling_parameters has more than one of {', '.join(_GUIDES)}", field="guide")
    return GenerationOptions(**options, guide=guides[0] if guides else None)


def _longest_output(options: GenerationOptions, num_prompt_tokens: int, max_context_tokens: int) -> int:
    if options.max_tokens is not None:
        return options.max_tokens
    return max(1, max_context_tokens - num_prompt_tokens)


def _parsed(name: str, value: Any) -> Any:
    try:
        return _PARSERS[name](value)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        raise InvalidInput(f"sampling_parameters: '{name}' is {json.dumps(value)}", field=name) from None


def _integer(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _flag(value: Any) -> bool:
    return {True: True, False: False, "true": True, "false": False}[value.lower() if isinstance(value, str) else value]


def _texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError
    return tuple(texts)


def _integers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(_integer(item) for item in value)


def _biases(value: Any) -> tuple[tuple[int, float], ...]:
    """JSON has texts for keys."""
    return tuple(sorted((int(token_id), _number(bias)) for token_id, bias in value.items()))


def _schema(value: Any) -> GuideSpec:
    return GuideSpec(GuideKind.JSON_SCHEMA, value if isinstance(value, str) else json.dumps(value))


def _source(kind: GuideKind) -> Callable[[Any], GuideSpec]:
    def parse(value: Any) -> GuideSpec:
        if not isinstance(value, str):
            raise TypeError
        return GuideSpec(kind, value)

    return parse


# vLLM's names.
_GUIDES: dict[str, Callable[[Any], GuideSpec]] = {
    "guided_json": _schema,
    "guided_regex": _source(GuideKind.REGEX),
    "guided_grammar": _source(GuideKind.GRAMMAR),
    "guided_choice": lambda value: GuideSpec(GuideKind.CHOICES, choices=_texts(value)),
}

# vLLM writes "all tokens" as -1.
_PARSERS: dict[str, Callable[[Any], Any]] = {
    "temperature": _number,
    "top_k": lambda value: 0 if _integer(value) == -1 else _integer(value),
    "top_p": _number,
    "min_p": _number,
    "seed": _integer,
    "max_tokens": _integer,
    "stop": _texts,
    "stop_token_ids": _integers,
    "ignore_eos": _flag,
    "logprobs": _integer,
    "repetition_penalty": _number,
    "frequency_penalty": _number,
    "presence_penalty": _number,
    "logit_bias": _biases,
    "bad_words": _texts,
    "min_tokens": _integer,
    **_GUIDES,
}
