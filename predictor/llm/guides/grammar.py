"""A GuideSpec as the one text that llguidance compiles, and llguidance's complaints as a sentence.

Every kind becomes Lark. What llguidance would misread or drop in silence is refused here, by name. Knows no matcher.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from llguidance import regex_to_lark

from mesh.errors import InvalidInput
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.guides.schema import Json, check_inline_schema, check_schema

MAX_SOURCE_CHARS = 256 * 1024
MAX_CHOICES = 10_000
_MAX_SENTENCE_CHARS = 300

# Between the parts of a JSON text: one space, or one new line and its indentation, as those write JSON who taught the
# model. Any more, and small models lose themselves in it.
_WHITESPACE = r"\x20|\x0A[\x20\x09]{0,40}"

# Where only one text can follow, llguidance would tokenize all of it for every mask: a constant of 100 kB then costs
# 30 ms a token, and a rule that never ends 18 ms. With this option every token that fits the text is allowed instead.
_NO_FORCING = '\n%llguidance {"no_forcing": true}'

# Options of a rule that cannot be kept: the text before a stop would have to be taken back, the temperature is the
# request's.
_DROPPED_OPTION = re.compile(r"\b(stop|stop_capture|temperature)\s*=")
# What is not closed ends with the source, so that the search is linear.
_LITERAL_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"?|//[^\n]*|#[^\n]*|/(?:\\.|[^/\\\n])+/?')
_INLINE_SCHEMA = re.compile(r"%json\s*(?=\{)")
_MAX_INLINE_SCHEMAS = 256


def grammar_text(spec: GuideSpec) -> str:
    """The grammar of `spec`. Raises InvalidInput for what can be refused before it is compiled."""
    field = spec.kind.value
    if len(spec.source) > MAX_SOURCE_CHARS:
        raise InvalidInput(
            f"{field} has {len(spec.source)} characters; at most {MAX_SOURCE_CHARS} are taken", field=field
        )
    if spec.kind is GuideKind.JSON_OBJECT:
        return _json_grammar({"type": "object"})
    if spec.kind is GuideKind.CHOICES:
        return _choices_grammar(spec.choices)
    if not spec.source.strip():
        raise InvalidInput(f"{field} is empty", field=field)
    _check_encodable(spec.source, field)
    if spec.kind is GuideKind.REGEX:
        return f"start: /{regex_to_lark(spec.source, use_ascii='')}/{_NO_FORCING}"
    if spec.kind is GuideKind.JSON_SCHEMA:
        return _json_grammar(_checked_schema(spec.source))
    return _lark_grammar(spec.source)


def refuse(spec: GuideSpec, complaint: str) -> NoReturn:
    """Raise InvalidInput for what llguidance said about `spec`."""
    field = spec.kind.value
    if spec.kind is GuideKind.JSON_SCHEMA:  # the place is one in the grammar around it
        complaint = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", complaint)
    raise InvalidInput(f"{field} is not taken: {_sentence(complaint)}", field=field)


def _json_grammar(schema: dict[str, Json]) -> str:
    options: Json = {"whitespace_pattern": _WHITESPACE}
    return f"start: %json {json.dumps({'x-guidance': options, **schema})}{_NO_FORCING}"


def _checked_schema(source: str) -> dict[str, Json]:
    field = GuideKind.JSON_SCHEMA.value
    try:
        schema: Json = json.loads(source, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise InvalidInput(f"{field} is nested too deeply", field=field) from error
    except ValueError as error:
        raise InvalidInput(f"{field} is no JSON: {error}", field=field) from error
    check_schema(schema, field)
    return schema if isinstance(schema, dict) else {}  # true: any value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _choices_grammar(choices: tuple[str, ...]) -> str:
    """One expression, so that the number of choices costs nothing per token."""
    field = GuideKind.CHOICES.value
    if not choices:
        raise InvalidInput(f"{field} is empty; give at least one text", field=field)
    if len(choices) > MAX_CHOICES:
        raise InvalidInput(f"{field} has {len(choices)} texts; at most {MAX_CHOICES} are taken", field=field)
    if (num_chars := sum(map(len, choices))) > MAX_SOURCE_CHARS:
        raise InvalidInput(f"{field} has {num_chars} characters; at most {MAX_SOURCE_CHARS} are taken", field=field)
    for choice in choices:
        _check_encodable(choice, field)
    return f"start: /(?:{'|'.join(map(_quote, choices))})/{_NO_FORCING}"


def _quote(text: str) -> str:
    # By number, whatever the character: then no rule of quoting, of two languages within each other, can be wrong.
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):x}}}" for c in text)


def _lark_grammar(source: str) -> str:
    field = GuideKind.GRAMMAR.value
    if source.lstrip().startswith("{"):
        raise InvalidInput(f"{field} is JSON; it must be Lark, beginning with a rule", field=field)
    if option := _DROPPED_OPTION.search(_LITERAL_OR_COMMENT.sub(" ", source)):
        raise InvalidInput(f"{field}: the rule option {option[1]!r} is not supported", field=field)
    for number, match in enumerate(_INLINE_SCHEMA.finditer(source)):
        if number == _MAX_INLINE_SCHEMAS:
            raise InvalidInput(f"{field} has more than {_MAX_INLINE_SCHEMAS} schemas in it", field=field)
        try:
            schema: Json = json.JSONDecoder().raw_decode(source, match.end())[0]
        except (ValueError, RecursionError):
            continue  # llguidance says it better, with the line
        check_inline_schema(schema, field)
    return source + _NO_FORCING


def _check_encodable(text: str, field: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{field} holds a lone surrogate, which no UTF-8 can express", field=field) from error


def _sentence(complaint: str) -> str:
    """The first line that says what is wrong, without the source that llguidance quotes around it."""
    if "'coerce_one_of'" in complaint:
        return "oneOf is supported only where no value can fit two of its cases; use anyOf"
    where = re.match(r"(?:at )?(\d+)\((\d+)\): ", complaint)
    if found := re.search(r"\(in regex\): ([^\n]*)", complaint):
        reason = re.sub(r"; (\w+) in regex .*", r": \1", found[1])
        if parse_error := re.search(r"^error: ([^\n]*)", complaint, re.MULTILINE):
            reason = parse_error[1]
        where = None  # a position within the line of llguidance's grammar, not of the expression
    elif parse_error := re.search(r"^error: ([^\n]*)", complaint, re.MULTILINE):
        reason = f"pattern: {parse_error[1]}"
    else:
        reason = complaint[where.end() if where else 0 :].split("\n")[0]
    place = f"line {where[1]}, column {where[2]}: " if where else ""
    return (place + reason)[:_MAX_SENTENCE_CHARS]
