"""Grammars of calls, in llguidance's variant of Lark (its docs/syntax.md).

Each function's head is a literal that ends where the arguments begin, so the schema of the arguments stands alone: its
`$ref`s count from its own root, and no alternative between schemas is ever open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from transformer.tools.declarations import Tool

# The white space is that of Python's json.dumps and templates' tojson, which models saw in training. Any other is not
# allowed: small models lose themselves in it.
_AS_TRAINED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def literal(text: str) -> str:
    """`text` as Lark's literal; its escapes are those of JSON."""
    return json.dumps(text)


def call_rules(tools: Sequence[Tool], arguments_key: str) -> str:
    """Rules of which `call` is one call's JSON object: {"name": …, <arguments_key>: …}."""
    calls = []
    schemas = []
    for index, tool in enumerate(tools):
        head = f'{{"name": "{tool.name}", "{arguments_key}": '
        calls.append(f"{literal(head)} arguments_{index} {literal('}')}")
        # lenient passes over keywords that no grammar can express; without it they are an error.
        schema = {**tool.parameters, "x-guidance": {**_AS_TRAINED, "lenient": not tool.is_strict}}
        schemas.append(f"arguments_{index}: %json {json.dumps(schema)}\n")
    return f"call: {' | '.join(calls)}\n{''.join(schemas)}"
