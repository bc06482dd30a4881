"""Hostile specs: each is refused with a sentence, in bounded time and memory, and costs at most the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mesh.errors import InvalidInput, MeshError, Overloaded, Unavailable
from predictor.llm.guide import GuideSpec
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.trial import Trial, TrialLimits
from predictor.llm.guides.vocabulary import GuideVocabulary, guide_vocabulary
from predictor.llm.tokenizer import Tokenizer
from tests.predictor.llm.guides.specs import choices, grammar, json_object, json_schema, regex

TOO_LONG = "takes more than 0.5 s of computing; make it simpler"
TOO_DEEP = "is nested too deeply, or refers from one part to the next too often in a row"
TOO_LARGE = "needs more than 64 MB of memory; make it simpler"

INTERSECTION = " & ".join(f"/(.*a.{{{i}}})*/" for i in range(1, 30))
DOUBLING = "\n".join(f"R{i}: R{i + 1} R{i + 1}" for i in range(40))
RULE_CHAIN = "\n".join(f"r{i}: r{i + 1}" for i in range(5000))
REF_CHAIN = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(5000)}
MANY_OPTIONAL = {f"p{i}": {"type": "string"} for i in range(2000)}


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> GuideVocabulary:
    return guide_vocabulary(tokenizer)


@pytest.fixture
def trial(vocabulary: GuideVocabulary) -> Iterator[Trial]:
    trial = Trial(vocabulary, TrialLimits())
    yield trial
    trial.close()


@pytest.mark.parametrize(
    ("spec", "outcomes"),
    [
        (grammar(f"start: r0\n{RULE_CHAIN}\nr5000: /a/"), [TOO_DEEP]),
        (json_schema({"$ref": "#/$defs/d0", "$defs": {**REF_CHAIN, "d5000": True}}), [TOO_DEEP]),
        (json_schema({"type": "integer", "multipleOf": 1000003}), [TOO_LARGE, TOO_LONG]),
        (grammar(f"start: A\nA: {INTERSECTION}"), [TOO_LARGE, TOO_LONG]),
        (grammar(f"start: R0\n{DOUBLING}\nR40: /a/"), [TOO_LARGE, TOO_LONG, "too big"]),
        (json_schema({"type": "object", "properties": MANY_OPTIONAL}), [TOO_LONG, "at most 1000 are followed"]),
        (
            json_schema({"type": "object", "properties": dict(list(MANY_OPTIONAL.items())[:260])}),
            ["at most 1000 are followed"],
        ),
        (regex("((a{1,100}){1,100}){1,100}"), ["too many expressions"]),
        (grammar("start: " + "(" * 50_000 + "/a/" + ")" * 50_000), ["too deeply nested"]),
        (regex("(" * 50_000 + "a" + ")" * 50_000), ["nested parentheses"]),
        (grammar("start: start"), ["after 0 tokens of output no token can follow"]),
        (regex(r"[^\s\S]"), ["after 0 tokens of output no token can follow"]),
        (regex(r"a\x04"), ["after 1 tokens of output no token can follow"]),  # SmolLM2 has no token with that byte
        (grammar("start: /a/ <|im_end|> /b/"), ["no token can follow"]),
    ],
)
def test_refused_with_a_sentence_and_the_next_is_tried(trial: Trial, spec: GuideSpec, outcomes: list[str]) -> None:
    began = time.monotonic()

    with pytest.raises(InvalidInput) as caught:
        trial.check(spec)

    assert any(outcome in caught.value.message for outcome in outcomes), caught.value.message
    assert caught.value.field == spec.kind.value
    assert len(caught.value.message) < 400
    assert time.monotonic() - began < 10.0  # with the start of a worker, on a busy machine
    trial.check(json_object())


@pytest.mark.parametrize(
    "spec",
    [
        regex("a{1,100000}"),
        regex("(a|b)*a(a|b){25}c"),  # its automaton would have 2^25 states
        regex("(?s:.)*"),
        grammar('start: start "+" /a/ | /a/'),
        grammar('start: start start | "a" | ""'),
        json_schema({"type": "string", "maxLength": 1_000_000}),
        json_schema({"const": "text " * 40_000}),
        json_schema({"type": "array", "minItems": 100_000, "items": {"type": "array", "minItems": 100_000}}),
        json_schema({"properties": {"self": {"$ref": "#"}}}),
        json_schema({"enum": [f"value {i}" for i in range(5000)]}),
        json_schema({"type": "object", "properties": dict(list(MANY_OPTIONAL.items())[:240])}),
        choices(*(f"value {i}" for i in range(10_000))),
    ],
)
def test_large_and_recursive_specs_pass(trial: Trial, spec: GuideSpec) -> None:
    trial.check(spec)


def test_a_verdict_is_remembered(trial: Trial) -> None:
    spec = grammar(f"start: r0\n{RULE_CHAIN}\nr5000: /a/")
    with pytest.raises(InvalidInput, match="nested too deeply"):
        trial.check(spec)
    assert trial._worker is None  # it died of it

    with pytest.raises(InvalidInput, match="nested too deeply"):
        trial.check(spec)

    assert trial._worker is None


def test_no_more_than_so_many_wait(vocabulary: GuideVocabulary) -> None:
    trial = Trial(vocabulary, TrialLimits(max_waiting=0))

    with pytest.raises(Overloaded, match="0 guides wait to be tried; no more can"):
        trial.check(json_object())


def test_many_threads_get_their_own_verdicts(vocabulary: GuideVocabulary) -> None:
    trial = Trial(vocabulary, TrialLimits())
    verdicts: dict[int, str] = {}

    def check(number: int) -> None:
        try:
            trial.check(regex(f"a{{{number}}}" + ("(" if number % 2 else "")))
            verdicts[number] = ""
        except MeshError as error:
            verdicts[number] = error.message

    threads = [threading.Thread(target=check, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trial.close()

    assert verdicts == {n: "regex is not taken: unclosed group" if n % 2 else "" for n in range(12)}


def test_a_worker_that_is_killed_is_replaced(trial: Trial) -> None:
    trial.check(regex("a"))
    assert trial._worker is not None
    trial._worker._process.kill()

    with pytest.raises(Unavailable, match="no process can be had"):
        trial.check(regex("b"))
    trial.check(regex("b"))


def test_check_and_start_agree(guides: LlguidanceGuides) -> None:
    guides.check(regex("[a-z]+"))
    assert guides.start(regex("[a-z]+")).allowed()

    for refuse in (guides.check, guides.start):
        with pytest.raises(InvalidInput, match="regex is not taken: unclosed group"):
            refuse(regex("("))
