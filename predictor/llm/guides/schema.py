"""A JSON schema, read before it is compiled, for the two things that llguidance lets pass.

It ignores keywords that it does not know, so a misspelt `required` would change the output without a word; here they
are refused by name. And it compiles a schema whose every value contains itself, which no output could ever finish; here
the schemas that have a value at all are found, as the least fixed point of a Horn system. Contradictions within one
value (minimum above maximum) are left to llguidance, which finds them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias
from urllib.parse import unquote

from mesh.errors import InvalidInput

MAX_DEPTH = 100  # llguidance's JSON reader stops at 128

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SCHEMAS = ("items", "additionalItems", "additionalProperties")
_ASSERTIONS = frozenset(
    (
        "$ref",
        "const",
        "enum",
        "type",
        "minItems",
        "maxItems",
        "required",
        "minProperties",
        "maxProperties",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
    )
)
# Say nothing about which values fit, by the specification or by OpenAPI's.
_ANNOTATIONS = frozenset(
    (
        "$anchor",
        "$comment",
        "$id",
        "$schema",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "default",
        "deprecated",
        "description",
        "discriminator",
        "example",
        "examples",
        "externalDocs",
        "id",
        "readOnly",
        "title",
        "writeOnly",
        "xml",
    )
)
_KNOWN = _ASSERTIONS | _ANNOTATIONS | {*_SCHEMA_MAPS, *_SCHEMA_LISTS, *_SCHEMAS}


# llguidance's options of a schema within a grammar: how a JSON text is spaced, and whether keywords that it does not
# know are passed over.
_OPTIONS: dict[str, type] = {
    "item_separator": str,
    "key_separator": str,
    "whitespace_flexible": bool,
    "whitespace_pattern": str,
    "lenient": bool,
}


def check_inline_schema(schema: Json, field: str) -> None:
    """As check_schema, for a schema within a grammar: whoever writes one may say in `x-guidance` how it is read."""
    if not isinstance(schema, dict):
        return check_schema(schema, field)
    options = schema.get("x-guidance", {})
    known = {name: value for name, value in options.items() if name in _OPTIONS} if isinstance(options, dict) else None
    if known is None or known != options or any(type(value) is not _OPTIONS[name] for name, value in known.items()):
        raise InvalidInput(f"{field}: x-guidance takes {', '.join(_OPTIONS)}", field=field)
    plain = {keyword: value for keyword, value in schema.items() if keyword != "x-guidance"}
    return check_schema(plain, field, is_lenient=known.get("lenient") is True)


def check_schema(schema: Json, field: str, *, is_lenient: bool = False) -> None:
    """Raise InvalidInput when a keyword is not supported or no value fits; `field` names what holds the schema.

    is_lenient: unknown keywords may stand, and say nothing.
    """
    subschemas = dict(_walk(schema, "#", 0, field))
    for pointer, subschema in subschemas.items():
        if isinstance(subschema, dict):
            _check_keywords(subschema, pointer, field, is_lenient=is_lenient)
        elif not isinstance(subschema, bool):
            raise InvalidInput(f"{field}: at {pointer} stands no schema (an object, true or false)", field=field)
    if "#" not in _satisfiable(subschemas):
        raise InvalidInput(
            f"{field} allows no value: every value that fits would have to contain another of its kind, without end, "
            "or a part that is false",
            field=field,
        )


def _check_keywords(schema: dict[str, Json], pointer: str, field: str, *, is_lenient: bool) -> None:
    for keyword in schema:
        # Keywords that begin with x- are annotations; llguidance's own would switch these very checks off.
        is_annotation = is_lenient or keyword.startswith("x-")
        if keyword == "x-guidance" or (keyword not in _KNOWN and not is_annotation):
            raise InvalidInput(f"{field}: keyword {keyword[:64]!r} at {pointer} is not supported", field=field)


def _walk(schema: Json, pointer: str, depth: int, field: str) -> Iterator[tuple[str, Json]]:
    """Every schema within `schema`, by JSON pointer; constants and examples are none."""
    if depth > MAX_DEPTH:
        raise InvalidInput(f"{field} is nested more than {MAX_DEPTH} schemas deep", field=field)
    yield pointer, schema
    if not isinstance(schema, dict):
        return
    for name, child in _children(schema):
        yield from _walk(child, f"{pointer}/{name}", depth + 1, field)


def _children(schema: dict[str, Json]) -> Iterator[tuple[str, Json]]:
    for keyword, value in schema.items():
        if keyword in _SCHEMA_MAPS and isinstance(value, dict):
            yield from ((f"{keyword}/{_escape(name)}", child) for name, child in value.items())
        elif isinstance(value, list) and (keyword in _SCHEMA_LISTS or keyword == "items"):
            yield from ((f"{keyword}/{i}", child) for i, child in enumerate(value))
        elif keyword in _SCHEMAS:
            yield keyword, value


def _satisfiable(subschemas: dict[str, Json]) -> set[str]:
    """Pointers of the schemas that some finite value fits, as far as references and requirements alone decide it.

    Each schema has clauses, and of each clause one member must be satisfiable before the schema is. Linear in the size.
    """
    waiting: dict[str, list[tuple[str, int]]] = defaultdict(list)  # member -> the clauses it would satisfy
    num_open: dict[str, int] = {}
    for pointer, schema in subschemas.items():
        clauses = list(_clauses(schema, pointer, subschemas)) if isinstance(schema, dict) else []
        num_open[pointer] = len(clauses)
        for number, clause in enumerate(clauses):
            for member in clause:
                waiting[member].append((pointer, number))
    ready = [pointer for pointer, schema in subschemas.items() if schema is not False and not num_open[pointer]]
    satisfied: set[tuple[str, int]] = set()
    found = set(ready)
    while ready:
        for clause_id in waiting[ready.pop()]:
            if clause_id in satisfied:
                continue
            satisfied.add(clause_id)
            owner = clause_id[0]
            num_open[owner] -= 1
            if not num_open[owner] and owner not in found:
                found.add(owner)
                ready.append(owner)
    return found


def _clauses(schema: dict[str, Json], pointer: str, subschemas: dict[str, Json]) -> Iterator[list[str]]:
    """What must be satisfiable for `schema` to be; a member that is no known subschema is left out with its clause."""
    if isinstance(reference := schema.get("$ref"), str) and (target := _target(reference)) in subschemas:
        yield [target]
    for keyword in ("anyOf", "oneOf"):
        if isinstance(cases := schema.get(keyword), list) and cases:
            yield [f"{pointer}/{keyword}/{i}" for i in range(len(cases))]
    if isinstance(parts := schema.get("allOf"), list):
        yield from ([f"{pointer}/allOf/{i}"] for i in range(len(parts)))
    # Only a schema of one type: with more, a value of another type may do without these parts.
    if schema.get("type") in ("object", ["object"]):
        properties, required = schema.get("properties"), schema.get("required")
        if isinstance(properties, dict) and isinstance(required, list):
            names = {name for name in required if isinstance(name, str) and name in properties}
            yield from ([f"{pointer}/properties/{_escape(name)}"] for name in names)
    if schema.get("type") in ("array", ["array"]):
        yield from _item_clauses(schema, pointer)


def _item_clauses(schema: dict[str, Json], pointer: str) -> Iterator[list[str]]:
    min_items = schema.get("minItems")
    if not isinstance(min_items, int | float) or min_items < 1:
        return
    keyword = "prefixItems" if "prefixItems" in schema else "items"
    prefix = schema.get(keyword)
    if isinstance(prefix, list):
        yield from ([f"{pointer}/{keyword}/{i}"] for i in range(min(len(prefix), int(min_items))))
    elif "items" in schema:
        yield [f"{pointer}/items"]


def _target(reference: str) -> str:
    """The pointer as `_walk` spells it; "" for an anchor or another document, which llguidance judges."""
    if reference != "#" and not reference.startswith("#/"):
        return ""
    return "/".join(["#", *(_escape(_unescape(part)) for part in reference.split("/")[1:])])


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _unescape(part: str) -> str:
    return unquote(part).replace("~1", "/").replace("~0", "~")
