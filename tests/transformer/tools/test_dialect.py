"""A template decides in which format its model calls tools."""

from __future__ import annotations

import pytest

from transformer.tools.dialect import dialect_of
from transformer.tools.hermes import Hermes
from transformer.tools.llama3 import Llama3


@pytest.mark.parametrize(
    ("template", "tool_format", "is_native"),
    [
        ("hermes", Hermes, True),
        ("parameters", Llama3, True),
        ("smollm2", Hermes, False),
        ("headers", Hermes, False),
        ("alternating", Hermes, False),
    ],
)
def test_the_template_decides(templates: dict[str, str], template: str, tool_format: type, is_native: bool) -> None:
    dialect = dialect_of(templates[template])

    assert type(dialect.format) is tool_format
    assert dialect.is_native is is_native


@pytest.mark.parametrize(
    "template",
    [
        "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}",
        "{% if tools %}<tool_call>\n<function=name>\n<parameter=a>\n</tool_call>{% endif %}",
        '<tool_call>{"name": f, "arguments": {}}</tool_call>',
        "",
    ],
    ids=["Mistral's", "XML in tags", "no tools", "no template"],
)
def test_a_format_that_is_not_known_is_not_native(template: str) -> None:
    dialect = dialect_of(template)

    assert type(dialect.format) is Hermes
    assert not dialect.is_native
