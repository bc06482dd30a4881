"""Measures what holds outputs to a grammar: llguidance alone, the guides built on it, and xgrammar if installed.

Usage: `python bench/guides.py MODEL.gguf`, with a second model for a second vocabulary. xgrammar brings torch along and
is no dependency: `pip install xgrammar` in an environment of its own to compare. It asserts nothing. Masks are computed
along the JSON texts of installed packages' metadata, a fresh output for each text; one thread.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import openai.types.chat
import openai.types.responses
from llguidance import LLMatcher, LLTokenizer
from rich.console import Console
from rich.table import Table

from predictor.llm.guide import Guide, GuideKind, GuideSpec
from predictor.llm.guides.grammar import grammar_text
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.vocabulary import GuideVocabulary, build_llguidance_tokenizer, guide_vocabulary
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.tokenizer_file import read_tokenizer

NUM_TEXTS = 12
MAX_DESCRIPTION_CHARS = 1500
COMPILE_ROUNDS = 5
COMPILE_MAX_S = 5.0

METADATA_SCHEMA = {
    "type": "object",
    "properties": {
        "metadata_version": {"type": "string", "pattern": r"^\d\.\d$"},
        "name": {"type": "string", "minLength": 1, "maxLength": 60},
        "version": {"type": "string", "pattern": r"^[0-9][0-9A-Za-z.+]*$"},
        "summary": {"type": "string", "maxLength": 512},
        "description": {"type": "string"},
        "requires_dist": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["metadata_version", "name", "version"],
    "additionalProperties": False,
}


def specs() -> dict[str, GuideSpec]:
    """What is compiled. The large schemas are those of the OpenAI client's own types."""
    medium, large = openai.types.chat.ChatCompletion, openai.types.responses.Response
    return {
        "json_object": GuideSpec(GuideKind.JSON_OBJECT),
        "schema, 0.6 kB": GuideSpec(GuideKind.JSON_SCHEMA, json.dumps(METADATA_SCHEMA)),
        "schema, 13 kB": GuideSpec(GuideKind.JSON_SCHEMA, json.dumps(medium.model_json_schema())),
        "schema, 143 kB": GuideSpec(GuideKind.JSON_SCHEMA, json.dumps(large.model_json_schema())),
        "regex, a date": GuideSpec(GuideKind.REGEX, r"\d{4}-(0[1-9]|1[0-2])-([0-2]\d|3[01])"),
        "regex, 500 characters": GuideSpec(GuideKind.REGEX, r"[^\x00-\x1f]{1,500}"),
        "3,000 choices": GuideSpec(GuideKind.CHOICES, choices=tuple(f"product number {i}" for i in range(3000))),
    }


def texts() -> list[str]:
    """JSON texts that fit METADATA_SCHEMA: what installed packages say about themselves."""
    documents = []
    for distribution in sorted(metadata.distributions(), key=lambda d: d.name.lower()):
        known = distribution.metadata.json
        document = {name: known[name] for name in METADATA_SCHEMA["properties"] if name in known}  # type: ignore[attr-defined]
        document["description"] = str(document.get("description", ""))[:MAX_DESCRIPTION_CHARS]
        documents.append(json.dumps(document, ensure_ascii=False))
    return documents[:NUM_TEXTS]


class Contestant(Protocol):
    """A library over one vocabulary. compile: from scratch. start: a fresh output. mask, accept: one token's work."""

    name: str

    def compile(self, spec: GuideSpec) -> Any: ...  # Any: each library's own
    def start(self, compiled: Any) -> Any: ...
    def mask(self, output: Any) -> object: ...
    def accept(self, output: Any, token_id: int) -> bool: ...


class Llguidance:
    name = "llguidance"

    def __init__(self, vocabulary: GuideVocabulary) -> None:
        self._tokenizer: LLTokenizer = build_llguidance_tokenizer(vocabulary)

    def compile(self, spec: GuideSpec) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar_text(spec), log_level=0)
        if matcher.is_error():
            raise ValueError(matcher.get_error())
        return matcher

    def start(self, compiled: LLMatcher) -> LLMatcher:
        return compiled.deep_copy()

    def mask(self, output: LLMatcher) -> object:
        return output.compute_bitmask()

    def accept(self, output: LLMatcher, token_id: int) -> bool:
        return output.consume_token(token_id)


class Guides:
    """The product's own: llguidance behind the port, with its checks and its copies."""

    name = "our guides"

    def __init__(self, vocabulary: GuideVocabulary) -> None:
        self._maker = LlguidanceGuides(vocabulary, max_compiled=1)

    def compile(self, spec: GuideSpec) -> GuideSpec:
        self._maker.start(GuideSpec(GuideKind.REGEX, "x"))  # pushes out what is kept
        self._maker.start(spec)
        return spec

    def start(self, compiled: GuideSpec) -> Guide:
        return self._maker.start(compiled)

    def mask(self, output: Guide) -> object:
        return output.allowed()

    def accept(self, output: Guide, token_id: int) -> bool:
        output.accept(token_id)
        return True


class Xgrammar:
    name = "xgrammar"

    def __init__(self, vocabulary: GuideVocabulary) -> None:
        import torch
        import xgrammar  # type: ignore[import-not-found, unused-ignore]

        torch.set_num_threads(1)
        tokens = [b"" if i in vocabulary.special else token for i, token in enumerate(vocabulary.tokens)]
        info = xgrammar.TokenizerInfo(tokens, stop_token_ids=list(vocabulary.eos_ids))
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._mask = xgrammar.allocate_token_bitmask(1, len(tokens))
        self._xgrammar = xgrammar

    def compile(self, spec: GuideSpec) -> Any:  # xgrammar's CompiledGrammar
        match spec.kind:
            case GuideKind.JSON_OBJECT:
                return self._compiler.compile_json_schema('{"type": "object"}')
            case GuideKind.JSON_SCHEMA:
                return self._compiler.compile_json_schema(spec.source)
            case GuideKind.REGEX:
                return self._compiler.compile_regex(spec.source)
        cases = " | ".join(json.dumps(text) for text in spec.choices)
        return self._compiler.compile_grammar(f"root ::= {cases}")

    def start(self, compiled: Any) -> Any:
        return self._xgrammar.GrammarMatcher(compiled)

    def mask(self, output: Any) -> object:
        return output.fill_next_token_bitmask(self._mask)

    def accept(self, output: Any, token_id: int) -> bool:
        return bool(output.accept_token(token_id))


def compile_ms(contestant: Contestant, spec: GuideSpec) -> str:
    """Median of some rounds, in ms; of one, where that takes long."""
    seconds: list[float] = []
    while len(seconds) < COMPILE_ROUNDS and sum(seconds) < COMPILE_MAX_S:
        try:
            seconds.append(timed(lambda: contestant.compile(spec)))
        except (ValueError, RuntimeError) as error:
            return f"refused: {str(error)[:40]}"
    return f"{statistics.median(seconds) * 1e3:.1f}"


def mask_us(contestant: Contestant, spec: GuideSpec, token_ids: Sequence[Sequence[int]]) -> tuple[list[str], list[str]]:
    """Median, 99th percentile and greatest, in us: of masks, and of masks with what it takes to move on."""
    compiled = contestant.compile(spec)
    masks, both = [], []
    for ids in token_ids:
        output = contestant.start(compiled)
        for token_id in ids:
            began = time.perf_counter()
            contestant.mask(output)
            masks.append(time.perf_counter() - began)
            fits = contestant.accept(output, token_id)
            both.append(time.perf_counter() - began)
            if not fits:
                raise SystemExit(f"{contestant.name} does not take a text that fits")
    return _spread(masks), _spread(both)


def _spread(seconds: list[float]) -> list[str]:
    ordered = sorted(seconds)
    picked = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100], ordered[-1]
    return [f"{value * 1e6:.0f}" for value in picked]


def timed(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def contestants(vocabulary: GuideVocabulary) -> Iterator[tuple[Contestant, float]]:
    """Each, and the seconds it took to set up."""
    makes: list[Callable[[GuideVocabulary], Contestant]] = [Llguidance, Guides]
    if importlib.util.find_spec("xgrammar"):
        makes.append(Xgrammar)
    for make in makes:
        gc.collect()
        began = time.perf_counter()
        contestant = make(vocabulary)
        yield contestant, time.perf_counter() - began


def measure(path: Path, console: Console) -> None:
    """All figures for the vocabulary of one model."""
    tokenizer: Tokenizer = read_tokenizer(path)
    vocabulary = guide_vocabulary(tokenizer)
    token_ids = [tokenizer.encode(text) for text in texts()]
    console.print(f"{path.name}: {tokenizer.vocab_size} tokens; {sum(map(len, token_ids))} tokens of JSON text")
    table = Table("", "setup, ms", *(f"compile {name}, ms" for name in specs()))
    masks = Table("", "texts under", "mask p50, us", "p99", "max", "mask and accept p50, us", "p99", "max")
    for contestant, setup_s in contestants(vocabulary):
        table.add_row(
            contestant.name, f"{setup_s * 1e3:.0f}", *(compile_ms(contestant, spec) for spec in specs().values())
        )
        for name in ("json_object", "schema, 0.6 kB"):
            mask, both = mask_us(contestant, specs()[name], token_ids)
            masks.add_row(contestant.name, name, *mask, *both)
    console.print(table, masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="GGUF file or folder of a model")
    for path in parser.parse_args().models:
        measure(path, Console(width=200))


if __name__ == "__main__":
    main()
