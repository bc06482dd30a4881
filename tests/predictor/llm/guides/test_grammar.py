"""What is refused before llguidance sees it, and how its complaints read."""

from __future__ import annotations

import time

import pytest

from mesh.errors import InvalidInput
from predictor.llm.guide import GuideSpec
from predictor.llm.guides.grammar import MAX_CHOICES, MAX_SOURCE_CHARS, grammar_text
from predictor.llm.guides.maker import LlguidanceGuides
from tests.predictor.llm.guides.specs import choices, grammar, json_schema, regex


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (choices(), "choices is empty; give at least one text"),
        (choices(*map(str, range(MAX_CHOICES + 1))), "choices has 10001 texts; at most 10000 are taken"),
        (choices("a" * MAX_SOURCE_CHARS, "b"), "choices has 262145 characters; at most 262144 are taken"),
        (choices("\ud800"), "choices holds a lone surrogate, which no UTF-8 can express"),
        (regex("a" * (MAX_SOURCE_CHARS + 1)), "regex has 262145 characters; at most 262144 are taken"),
        (regex(""), "regex is empty"),
        (regex("\udfff"), "regex holds a lone surrogate, which no UTF-8 can express"),
        (grammar(" \n"), "grammar is empty"),
        (grammar('{"grammars": []}'), "grammar is JSON; it must be Lark, beginning with a rule"),
        (grammar('start: x\nx[stop="b"]: /a+/'), "grammar: the rule option 'stop' is not supported"),
        (grammar("start: x\nx[temperature=1]: /a+/"), "grammar: the rule option 'temperature' is not supported"),
        (grammar('start: %json {"minimun": 1}'), "grammar: keyword 'minimun' at # is not supported"),
        (json_schema("{"), "json_schema is no JSON: Expecting property name enclosed in double quotes: line 1 column 2 "
                           "(char 1)"),
        (json_schema('{"minimum": NaN}'), "json_schema is no JSON: NaN is no JSON number"),
        (json_schema('true}]}, {"lark_grammar": ""'), "json_schema is no JSON: Extra data: line 1 column 5 (char 4)"),
        (json_schema('{"items":' * 50_000), "json_schema has 450000 characters; at most 262144 are taken"),
        (json_schema('{"items":' * 20_000), "json_schema is nested too deeply"),
    ],
)  # fmt: skip
def test_refused_before_compiling(spec: GuideSpec, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        grammar_text(spec)

    assert caught.value.message == message
    assert caught.value.field == spec.kind.value


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (regex("a(b"), "regex is not taken: unclosed group"),
        (regex("a(?=b)"), "regex is not taken: look-around, including look-ahead and look-behind, is not supported"),
        (regex("a^b"), "regex is not taken: lookarounds not supported yet: Start"),
        (grammar("start: rule\nrule: foo"), 'grammar is not taken: line 2, column 7: unknown name: "foo"'),
        (grammar("rule: /a/"), "grammar is not taken: no start rule found"),
        (json_schema({"type": "strng"}), "json_schema is not taken: Invalid type: strng"),
        (json_schema({"format": "postcode"}), "json_schema is not taken: Unknown format: postcode"),
        (json_schema({"pattern": "(?=a)"}), "json_schema is not taken: pattern: look-around, including look-ahead and "
                                            "look-behind, is not supported"),
        (json_schema({"allOf": [{"type": "string"}, {"type": "integer"}]}),
         "json_schema is not taken: Unsatisfiable schema: incompatible types"),
        (json_schema({"type": "integer", "minimum": 5, "maximum": 4}),
         "json_schema is not taken: Unsatisfiable schema: minimum (5) is greater than maximum (4)"),
        (json_schema({"oneOf": [{"type": "string"}, {"maxLength": 3}]}),
         "json_schema is not taken: oneOf is supported only where no value can fit two of its cases; use anyOf"),
    ],
)  # fmt: skip
def test_a_complaint_of_llguidance_becomes_one_sentence(
    guides: LlguidanceGuides, spec: GuideSpec, message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        guides.start(spec)

    assert caught.value.message == message
    assert caught.value.field == spec.kind.value


def test_options_and_schemas_in_texts_and_comments_are_none(guides: LlguidanceGuides) -> None:
    guides.start(grammar('start: "stop=" /[stop=]+/ // temperature=1\n# stop=""'))


@pytest.mark.parametrize("source", ['start: "' + r"\"" * 100_000, "start: /" + r"\/" * 100_000, '%json {"' * 30_000])
def test_reading_a_grammar_is_linear(source: str) -> None:
    began = time.process_time()

    try:
        grammar_text(grammar(source))
    except InvalidInput as error:
        assert "more than 256 schemas" in error.message

    assert time.process_time() - began < 1.0  # a search that begins anew at each quote takes minutes
