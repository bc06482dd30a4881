"""What comes out of a guide fits its spec, whatever tokens are chosen; and what fits goes through."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest

from mesh.errors import InvalidInput
from predictor.llm.guide import GuideSpec
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.vocabulary import guide_vocabulary
from predictor.llm.tokenizer import Tokenizer
from tests.predictor.llm.guides.specs import choices, grammar, json_object, json_schema, regex
from tests.predictor.llm.guides.walking import accepts, allowed_ids, walk

SEEDS = range(6)

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b\n", 'c"', "é", 3, None]}, "minItems": 1, "maxItems": 4},
        "score": {"type": "number", "exclusiveMinimum": -1, "maximum": 1.5},
        "mail": {"type": "string", "pattern": "^[a-z]+@[a-z]+\\.de$"},
        "day": {"type": "string", "format": "date"},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"anyOf": [{"type": "integer"}, {"type": "null"}, {"const": {"a": [True]}}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 2},
            },
            "required": ["value"],
            "additionalProperties": False,
        }
    },
}
SCHEMAS = [
    PERSON,
    TREE,
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "string"}], "items": False, "minItems": 2},
    {"oneOf": [{"type": "integer", "multipleOf": 7}, {"type": "boolean"}]},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "integer"}}}]},
    {"type": "object", "patternProperties": {"^x[0-9]$": {"type": "integer"}}, "additionalProperties": False},
]
REGEXES = [
    r"\d{3}-\d{4}",
    r"(?:yes|no)( maybe){0,3}!?",
    r"[^\x00-\x1f\x7f]{1,20}",
    r"[äöüß€日本😀]{2,9}",
    r"(?i)hello,\s(world|there)",
    r"a/b\\c\"d",
    r"^x+$",
    "line\nbreak",
]
TEXTS = (
    "yes",
    "no",
    "yes and no",
    'quote " \\ back',
    "/slash/",
    "日本語 😀",
    "line\nbreak\t\x07",
    "<|im_end|>",
    "a|b)(",
    "",
)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("schema", SCHEMAS)
def test_any_output_of_a_schema_is_json_that_fits_it(
    guides: LlguidanceGuides, tokenizer: Tokenizer, schema: dict[str, object], seed: int
) -> None:
    token_ids = walk(guides.start(json_schema(schema)), tokenizer, seed)

    value = json.loads(tokenizer.decode(token_ids))
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(value)


@pytest.mark.parametrize("seed", SEEDS)
def test_any_output_of_json_object_is_an_object(guides: LlguidanceGuides, tokenizer: Tokenizer, seed: int) -> None:
    token_ids = walk(guides.start(json_object()), tokenizer, seed)

    assert isinstance(json.loads(tokenizer.decode(token_ids)), dict)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pattern", REGEXES)
def test_any_output_of_an_expression_matches_it_as_a_whole(
    guides: LlguidanceGuides, tokenizer: Tokenizer, pattern: str, seed: int
) -> None:
    token_ids = walk(guides.start(regex(pattern)), tokenizer, seed)

    assert re.fullmatch(pattern, tokenizer.decode(token_ids))


@pytest.mark.parametrize("seed", range(30))
def test_any_output_of_choices_is_one_of_them(guides: LlguidanceGuides, tokenizer: Tokenizer, seed: int) -> None:
    token_ids = walk(guides.start(choices(*TEXTS)), tokenizer, seed)

    assert tokenizer.decode(token_ids) in TEXTS


@pytest.mark.parametrize("text", TEXTS)
def test_every_choice_can_be_chosen(guides: LlguidanceGuides, tokenizer: Tokenizer, text: str) -> None:
    guide = guides.start(choices(*TEXTS))
    # Spelt out: the encoder makes the special token of what looks like one.
    token_ids = (
        tokenizer.encode("<|im") + tokenizer.encode("_end|>") if text == "<|im_end|>" else tokenizer.encode(text)
    )

    assert accepts(guide, token_ids) == len(token_ids)
    assert tokenizer.eos_ids <= set(allowed_ids(guide))


def test_thousands_of_choices(guides: LlguidanceGuides, tokenizer: Tokenizer) -> None:
    texts = [f'number {i} of "many", größer' for i in range(5000)]
    guides.check(choices(*texts))

    token_ids = walk(guides.start(choices(*texts)), tokenizer, seed=3)

    assert tokenizer.decode(token_ids) in texts


@pytest.mark.parametrize("seed", SEEDS)
def test_any_output_of_a_grammar_is_a_sentence_of_it(guides: LlguidanceGuides, tokenizer: Tokenizer, seed: int) -> None:
    sums = grammar('start: term ("+" term){0,4}\nterm: NUMBER | "(" start ")"\nNUMBER: /[1-9][0-9]{0,3}/')

    token_ids = walk(guides.start(sums), tokenizer, seed)

    text = tokenizer.decode(token_ids)
    assert set(text) <= set("0123456789+()")
    assert isinstance(eval(text), int)  # noqa: S307 -- the line above says what is in it


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("pattern", [r"[äöüß€日本😀]{1,9}", ".{3,9}"])
def test_characters_are_whole_where_each_byte_is_a_token(
    bytes_guides: LlguidanceGuides, bytes_tokenizer: Tokenizer, pattern: str, seed: int
) -> None:
    token_ids = walk(bytes_guides.start(regex(pattern)), bytes_tokenizer, seed)

    text = b"".join(bytes_tokenizer.id_to_bytes(i) for i in token_ids).decode()
    assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize(
    "value", [{"name": "Jürgen 😀", "age": 3, "tags": ["é", None], "score": -0.5e-3, "day": "2024-02-29"}]
)
def test_a_text_that_fits_goes_through_token_by_token(
    guides: LlguidanceGuides, tokenizer: Tokenizer, value: object, indent: int | None
) -> None:
    guide = guides.start(json_schema(PERSON))
    token_ids = tokenizer.encode(json.dumps(value, ensure_ascii=False, indent=indent))

    assert accepts(guide, token_ids) == len(token_ids)
    assert guide.is_complete


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ('{"name": "x", "age": 151', '{"name": "x", "age": 15'),
        ('{"name": "", ', '{"name": "'),
        ('{"age": 3', '{"'),
        ('{"name": "x", "age": 1.5', '{"name": "x", "age": 1'),
        ("[1]", ""),
    ],
)
def test_a_text_that_does_not_fit_is_stopped_where_it_leaves(
    guides: LlguidanceGuides, tokenizer: Tokenizer, text: str, prefix: str
) -> None:
    guide = guides.start(json_schema(PERSON))
    token_ids = tokenizer.encode(text)

    count = accepts(guide, token_ids)

    # The first token that is stopped is the one with the first byte that does not fit.
    assert prefix.startswith(tokenizer.decode(token_ids[:count]))
    assert len(tokenizer.decode(token_ids[: count + 1])) > len(prefix)
    with pytest.raises(InvalidInput, match=f"after {count} tokens of output token {token_ids[count]} does not fit"):
        guide.accept(token_ids[count])
    assert allowed_ids(guide)  # and goes on from where it stood


def test_the_end_is_allowed_exactly_when_the_text_may_end(guides: LlguidanceGuides, tokenizer: Tokenizer) -> None:
    guide = guides.start(regex("ab?"))
    eos_ids = tokenizer.eos_ids
    assert len(eos_ids) == 2

    assert not eos_ids & set(allowed_ids(guide))
    with pytest.raises(InvalidInput, match="is not whole"):
        guide.accept(min(eos_ids))
    guide.accept(tokenizer.encode("a")[0])
    assert eos_ids < set(allowed_ids(guide))
    assert not guide.is_complete
    guide.accept(tokenizer.encode("b")[0])
    assert guide.is_complete
    assert eos_ids == set(allowed_ids(guide))


@pytest.mark.parametrize("which", [min, max])
def test_after_any_end_token_the_guide_is_complete(guides: LlguidanceGuides, tokenizer: Tokenizer, which: type) -> None:
    guide = guides.start(regex("a*"))

    guide.accept(which(tokenizer.eos_ids))

    assert guide.is_complete
    assert set(allowed_ids(guide)) == tokenizer.eos_ids
    with pytest.raises(InvalidInput, match="does not fit"):
        guide.accept(tokenizer.encode("a")[0])


def test_special_tokens_come_only_where_a_grammar_names_them(guides: LlguidanceGuides, tokenizer: Tokenizer) -> None:
    anything, named = guides.start(regex("(?s:.)*")), guides.start(grammar('start: "a" <|im_start|> "b"'))
    im_start = tokenizer.encode("<|im_start|>")[0]

    assert set(allowed_ids(anything)) & tokenizer.special_ids == tokenizer.eos_ids
    assert accepts(named, [tokenizer.encode("a")[0], im_start, tokenizer.encode("b")[0]]) == 3


def test_a_grammar_cannot_give_the_end_tokens_another_meaning(guides: LlguidanceGuides, tokenizer: Tokenizer) -> None:
    guide = guides.start(grammar("start: <[*]>"))

    assert not tokenizer.eos_ids & set(allowed_ids(guide))


@pytest.mark.parametrize("spec", [json_schema(PERSON), regex(REGEXES[2]), choices(*TEXTS)])
def test_equal_specs_and_tokens_give_equal_masks(
    guides: LlguidanceGuides, tokenizer: Tokenizer, spec: GuideSpec
) -> None:
    token_ids = walk(guides.start(spec), tokenizer, seed=11)[:-1]
    other = LlguidanceGuides(guide_vocabulary(tokenizer))
    walk(other.start(spec), tokenizer, seed=12)  # has learnt other things by now

    here, there = guides.start(spec), other.start(spec)

    for token_id in token_ids:
        assert here.allowed() == there.allowed()
        here.accept(token_id)
        there.accept(token_id)
    assert here.allowed() == there.allowed()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_guide_that_is_fed_the_tokens_so_far_goes_on_with_the_same_masks(
    guides: LlguidanceGuides, tokenizer: Tokenizer, seed: int
) -> None:
    token_ids = walk(guides.start(json_schema(PERSON)), tokenizer, seed)
    whole, cut = guides.start(json_schema(PERSON)), len(token_ids) * (seed + 1) // 8
    masks = []
    for token_id in token_ids:
        masks.append(whole.allowed())
        whole.accept(token_id)

    resumed = guides.start(json_schema(PERSON))
    for token_id in token_ids[:cut]:
        resumed.accept(token_id)

    for mask, token_id in zip(masks[cut:], token_ids[cut:], strict=True):
        assert resumed.allowed() == mask
        resumed.accept(token_id)


def test_outputs_of_one_spec_do_not_move_each_other(guides: LlguidanceGuides, tokenizer: Tokenizer) -> None:
    first, second = guides.start(regex("abc")), guides.start(regex("abc"))

    first.accept(tokenizer.encode("a")[0])

    assert accepts(second, tokenizer.encode("a")) == 1
    assert first.allowed() == second.allowed()


def test_an_output_that_wears_the_shared_matcher_out_takes_no_other_with_it(
    guides: LlguidanceGuides, tokenizer: Tokenizer
) -> None:
    spec = regex("((a{1,100}){1,100}){1,100}")  # llguidance has built too many expressions after some tokens
    costly, neighbour = guides.start(spec), guides.start(spec)
    letter = tokenizer.encode("a")[0]

    with pytest.raises(InvalidInput, match="regex: after [0-9]+ tokens of output .*too many expressions"):
        for _ in range(100):
            costly.accept(allowed_ids(costly)[-1])  # the longest token

    assert letter in allowed_ids(neighbour)
    neighbour.accept(letter)
    assert letter in allowed_ids(guides.start(spec))


def test_a_grammar_that_becomes_too_costly_ends_its_output_with_a_sentence(
    guides: LlguidanceGuides, tokenizer: Tokenizer
) -> None:
    guide = guides.start(grammar('start: x{1,10000}\nx: y{1,10000}\ny: "a"{1,10000}'))

    with pytest.raises(
        InvalidInput, match=r"^grammar: after \d+ tokens of output .*at most 1000 are followed"
    ) as caught:
        for _ in range(100):
            guide.accept(allowed_ids(guide)[-1])

    assert caught.value.field == "grammar"
    with pytest.raises(
        InvalidInput, match="at most 1000 are followed"
    ):  # it stands where it stood, and that token is too much
        guide.accept(allowed_ids(guide)[-1])


@pytest.mark.parametrize(
    ("text", "is_taken"),
    [
        ('{"name":\n' + " " * 40 + '"x"', True),
        ('{"name":\n' + " " * 41 + '"x"', False),
        ('{"name":  "x"', False),  # a model that likes white space cannot fill its output with it
        (' {"name"', False),
        ('{"age": 1, "name"', False),  # properties come in the order of the schema
        ('{"name": "é"', True),
        ('{"name": "\\u00e9"', False),
        ('{"name": "\\u0001"', True),  # cannot be written otherwise
    ],
)
def test_of_the_texts_that_fit_a_schema_these_can_come(
    guides: LlguidanceGuides, tokenizer: Tokenizer, text: str, is_taken: bool
) -> None:
    token_ids = tokenizer.encode(text)

    assert (accepts(guides.start(json_schema(PERSON)), token_ids) == len(token_ids)) is is_taken


def test_the_model_chooses_how_a_text_is_cut_even_where_only_one_can_follow(
    guides: LlguidanceGuides, tokenizer: Tokenizer
) -> None:
    # Forced text would be tokenized whole for each mask, however long it is.
    guide = guides.start(grammar('start: "hello"\n%llguidance {"no_forcing": false}'))

    assert {tokenizer.decode([i]) for i in allowed_ids(guide)} >= {"h", "he", "hel"}
