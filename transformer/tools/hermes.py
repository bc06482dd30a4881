"""The format of Nous Hermes 2 Pro, which Qwen 2.5 and 3 and many others took up: each call is a JSON object in tags.

<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris"}}
</tool_call>
"""

from __future__ import annotations

import re

from transformer.tools.call_parser import CallParser, CallSyntax
from transformer.tools.declarations import ToolUse
from transformer.tools.format import OutputParser
from transformer.tools.grammar import call_rules, literal

OPENING = "<tool_call>"
CLOSING = "</tool_call>"
ARGUMENTS = "arguments"

_SYNTAX = CallSyntax(OPENING, CLOSING, ARGUMENTS)
_KNOWS_TOOLS = re.compile(r"\btools\b")
# Others (Qwen 3 Coder, GLM 4.5) write XML between the same tags.
_KEY = re.compile(r"arguments\\?\"\s?:")


class Hermes:
    """Calls stand anywhere in the text, one after the other. Implements ToolFormat."""

    def is_spoken_by(self, template: str) -> bool:
        return OPENING in template and bool(_KNOWS_TOOLS.search(template)) and bool(_KEY.search(template))

    def grammar(self, use: ToolUse) -> str:
        """Of an answer that need not call: free text until a tag opens a call, which is then held to its schema.

        The tags are matched as text, whether the vocabulary has a token for them or not.
        """
        opened = f"{literal(OPENING)} in_tags"
        if use.only:
            start = f"start: {opened}\n"
        elif use.must_call:
            start = f"start: {opened} ({literal(chr(10))} {opened})*\n"
        else:
            start = f"start: (lead in_tags)* rest\nlead[lazy]: /(?s:.*){OPENING}/\nrest: /(?s:.*)/\n"
        in_tags = f"in_tags: {literal(chr(10))} call {literal(chr(10) + CLOSING)}\n"
        return start + in_tags + call_rules(use.callable_tools, ARGUMENTS)

    def parser(self) -> OutputParser:
        return CallParser(_SYNTAX)
