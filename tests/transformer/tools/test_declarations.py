"""Tools and the choice among them, checked field by field."""

from __future__ import annotations

import json

import pytest

from mesh.errors import InvalidInput
from transformer.tools.declarations import MAX_TOOLS, MAX_TOOLS_BYTES, read_tool_use


def tool(name: str = "f", **function: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name, **function}}


def tools_json(*tools: object) -> str:
    return json.dumps(tools)


def test_a_tool_is_read_with_its_schema_and_as_it_came() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    declared = tool("f", description="d", parameters=schema, strict=True)

    use = read_tool_use(tools_json(declared), "")

    assert use is not None
    [read] = use.tools
    assert (read.name, read.parameters, read.is_strict, read.declaration) == ("f", schema, True, declared)
    assert (use.must_call, use.only) == (False, "")


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        ({}, {"type": "object", "properties": {}, "additionalProperties": False}),
        ({"parameters": None}, {"type": "object", "properties": {}, "additionalProperties": False}),
        ({"parameters": {}}, {"type": "object"}),
        ({"parameters": {"$ref": "#/$defs/a"}}, {"$ref": "#/$defs/a", "type": "object"}),
    ],
)
def test_arguments_are_always_an_object(function: dict[str, object], parameters: dict[str, object]) -> None:
    use = read_tool_use(tools_json(tool(**function)), "auto")

    assert use is not None
    assert use.tools[0].parameters == parameters


@pytest.mark.parametrize(
    ("choice", "must_call", "only", "callable_names"),
    [
        ("", False, "", ["f", "g"]),
        ("auto", False, "", ["f", "g"]),
        ("required", True, "", ["f", "g"]),
        ("function:g", True, "g", ["g"]),
    ],
)
def test_the_choice_says_what_may_be_called(choice: str, must_call: bool, only: str, callable_names: list[str]) -> None:
    use = read_tool_use(tools_json(tool("f"), tool("g")), choice)

    assert use is not None
    assert (use.must_call, use.only) == (must_call, only)
    assert [tool.name for tool in use.callable_tools] == callable_names
    assert len(use.tools) == 2  # all are shown


@pytest.mark.parametrize(
    ("text", "choice"), [("", ""), ("", "auto"), ("", "none"), ("[]", "auto"), (tools_json(tool()), "none")]
)
def test_no_tools_or_the_choice_none_is_no_use_of_tools(text: str, choice: str) -> None:
    assert read_tool_use(text, choice) is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "messages.tools_json is not JSON"),
        ("{}", "messages.tools_json must be an array of tools"),
        ("[1]", r"messages.tools_json\[0\] must be an object"),
        ("[[]]", r"messages.tools_json\[0\] must be an object"),
        ('[{"type": "retrieval"}]', r"messages.tools_json\[0\].type is 'retrieval'; only 'function' is known"),
        ('[{"type": "function"}]', r"messages.tools_json\[0\].function must be an object"),
        (tools_json({"function": {}}), r"messages.tools_json\[0\].function.name must be 1 to 64"),
        (tools_json(tool("f"), tool('g"')), r"messages.tools_json\[1\].function.name must be 1 to 64"),
        (tools_json(tool("f\n")), r"\[0\].function.name must be 1 to 64"),
        (tools_json(tool("x" * 65)), r"\[0\].function.name must be 1 to 64"),
        (tools_json(tool("f"), tool("f")), r"\[1\].function.name is 'f', which an earlier tool has"),
        (tools_json(tool(strict="yes")), r"\[0\].function.strict must be true or false"),
        (tools_json(tool(parameters=[])), r"\[0\].function.parameters must be a JSON schema"),
        (tools_json(tool(parameters=True)), r"\[0\].function.parameters must be a JSON schema"),
        (tools_json(tool(parameters={"type": "array"})), r"\[0\].function.parameters.type must be 'object'"),
        (tools_json(*(tool(f"f{i}") for i in range(MAX_TOOLS + 1))), "has 129 tools; at most 128"),
        (tools_json(tool(description="x" * MAX_TOOLS_BYTES)), "bytes; at most 262144"),
        ("[" * 4000 + "]" * 4000, "nests too deep"),
        (tools_json(tool(parameters={"x": json.loads("[" * 62 + "]" * 62)})), "nests deeper than 64 levels"),
    ],
)
def test_wrong_tools_are_named(text: str, sentence: str) -> None:
    for choice in ("auto", "none"):
        with pytest.raises(InvalidInput, match=sentence) as caught:
            read_tool_use(text, choice)
        assert caught.value.field == "messages.tools_json"


@pytest.mark.parametrize(
    ("text", "choice", "sentence"),
    [
        (
            tools_json(tool()),
            "maybe",
            "messages.tool_choice is 'maybe'; it must be auto, none, required or function:NAME",
        ),
        (tools_json(tool()), "function:", "messages.tool_choice is 'function:'"),
        (
            tools_json(tool()),
            "function:g",
            "names the function 'g', which messages.tools_json does not declare; it has f",
        ),
        ("", "required", "messages.tool_choice is 'required', but messages.tools_json has no tools"),
        ("[]", "function:f", "messages.tool_choice is 'function:f', but messages.tools_json has no tools"),
    ],
)
def test_a_wrong_choice_is_named(text: str, choice: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as caught:
        read_tool_use(text, choice)

    assert caught.value.field == "messages.tool_choice"
