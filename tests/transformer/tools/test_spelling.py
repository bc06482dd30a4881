"""Tools, calls and results in messages that any template takes."""

from __future__ import annotations

from transformer.steps.prompt import Message
from transformer.tools.call_parser import CallParser, CallSyntax
from transformer.tools.spelling import spell_out

CALL = {"id": "c", "function": {"name": "f", "arguments": {"a": "é"}}}


def test_messages_without_tools_stay_as_they_are() -> None:
    messages = [Message("system", "s"), Message("user", ""), Message("assistant", "a")]

    assert spell_out(messages, []) == messages


def test_tools_are_told_in_the_first_system_message_or_one_before_all() -> None:
    [made, question] = spell_out([Message("user", "q")], [{"a": 1}, {"b": 2}])
    [extended] = spell_out([Message("system", "s")], [{"a": 1}, {"b": 2}])

    assert (made.role, question) == ("system", Message("user", "q"))
    assert '<tools>\n{"a": 1}\n{"b": 2}\n</tools>' in made.content
    assert extended == Message("system", f"s\n\n{made.content}")


def test_results_in_a_row_are_one_message() -> None:
    messages = [Message("tool", "1", tool_call_id="x"), Message("tool", "2", name="f"), Message("user", "q")]

    assert spell_out(messages, []) == [
        Message("user", "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"),
        Message("user", "q"),
    ]


def test_a_call_is_written_as_it_would_be_read() -> None:
    [message] = spell_out([Message("assistant", "", (CALL,))], [])
    parser = CallParser(CallSyntax("<tool_call>", "</tool_call>", "arguments"))

    parsed = parser.push(message.content)

    assert [(part.name, part.arguments) for part in parsed.parts] == [("f", ""), ("", '{"a": "é"}')]
    assert (parser.finish().text, parser.num_complete) == ("", 1)


def test_text_stands_before_its_calls() -> None:
    [message] = spell_out([Message("assistant", "Hm.", (CALL, CALL))], [])

    assert message.content.startswith("Hm.\n<tool_call>\n")
    assert message.content.count("\n<tool_call>\n") == 2
