"""The JSON format of Llama 3.1 to 3.3: the whole answer is text, or it is one call.

    {"name": "get_weather", "parameters": {"city": "Paris"}}

Their built-in tools and Python answers, which begin with the token <|python_tag|>, are another format.
"""

from __future__ import annotations

import re

from transformer.tools.call_parser import CallParser, CallSyntax
from transformer.tools.declarations import ToolUse
from transformer.tools.format import OutputParser
from transformer.tools.grammar import call_rules

ARGUMENTS = "parameters"

_SYNTAX = CallSyntax(opening="", closing="", arguments_key=ARGUMENTS)
_KNOWS_TOOLS = re.compile(r"\btools\b")
_KEY = re.compile(r"parameters\\?\": ")


class Llama3:
    """One call at most: their template refuses conversations with more in one message. Implements ToolFormat."""

    def is_spoken_by(self, template: str) -> bool:
        return bool(_KNOWS_TOOLS.search(template)) and '{"name": ' in template and bool(_KEY.search(template))

    def grammar(self, use: ToolUse) -> str:
        """Of an answer that need not call: a call if it begins with "{", else free text."""
        start = "start: call\n" if use.must_call else "start: call | text\ntext: /([^{](?s:.*))?/\n"
        return start + call_rules(use.callable_tools, ARGUMENTS)

    def parser(self) -> OutputParser:
        return CallParser(_SYNTAX)
