"""Calls are told from text however the output is cut, and nothing of an output is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transformer.tools.call_parser import CallParser, CallSyntax
from transformer.tools.format import CallPart

TAGS = CallSyntax("<tool_call>", "</tool_call>", "arguments")
BARE = CallSyntax("", "", "parameters")


def tagged(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def bare(name: str, arguments: str) -> str:
    return f'{{"name": "{name}", "parameters": {arguments}}}'


def joined(parts: list[CallPart]) -> list[tuple[str, str]]:
    """(name, arguments) of each call; names stand in first parts only, and calls are numbered as they come."""
    calls: list[tuple[str, str]] = []
    for part in parts:
        if part.name:
            assert part.call_index == len(calls)
            calls.append((part.name, part.arguments))
        else:
            assert part.call_index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + part.arguments)
    return calls


def read(pieces: list[str], syntax: CallSyntax = TAGS) -> tuple[str, list[tuple[str, str]], int]:
    """Text, calls and the number of complete ones."""
    parser = CallParser(syntax)
    results = [parser.push(piece) for piece in pieces]
    results.append(parser.finish())
    text = "".join(result.text for result in results)
    return text, joined([part for result in results for part in result.parts]), parser.num_complete


@pytest.mark.parametrize(
    ("output", "text", "calls", "num_complete"),
    [
        (tagged("f", '{"a": 1}'), "", [("f", '{"a": 1}')], 1),
        ("Let me see.\n\n" + tagged("f", "{}") + "\n", "Let me see.", [("f", "{}")], 1),
        (tagged("f", "{}") + "\n" + tagged("g", "{}"), "", [("f", "{}"), ("g", "{}")], 2),
        (tagged("f", "{}") + " \n and so on ", "and so on ", [("f", "{}")], 1),
        (tagged("f", r'{"a": "}]\"\\", "b": [{}]}'), "", [("f", r'{"a": "}]\"\\", "b": [{}]}')], 1),
        ('<tool_call>{"name":"f","arguments":{ "a" : 1 } }</tool_call>', "", [("f", '{ "a" : 1 }')], 1),
        (tagged("f", "{}").removesuffix("\n</tool_call>"), "", [("f", "{}")], 1),
        (tagged("f", "{}").removesuffix("call>"), "", [("f", "{}")], 1),
    ],
    ids=[
        "one call",
        "white space around is no text",
        "two calls",
        "text after a call",
        "brackets and quotes in strings",
        "other white space in the call",
        "no closing tag",
        "half a closing tag",
    ],
)
def test_calls_are_found(output: str, text: str, calls: list[tuple[str, str]], num_complete: int) -> None:
    assert read([output]) == (text, calls, num_complete)
    assert read(list(output)) == (text, calls, num_complete)


@pytest.mark.parametrize(
    "output",
    [
        "",
        " \n",
        "a < b, <tool, <tool_cal",
        " <tool_call> \n nothing </tool_call> \n",
        '<tool_call>\n{"name": "f", "args": {}}\n</tool_call>',
        '<tool_call>\n{"name": "not a name", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>',
        '<tool_call>\n{"name": "f", "argum',
        "<tool_call>" + " " * 17 + '{"name": "f", "arguments": {}}',
        '{"name": "f", "arguments": {}}',
    ],
)
def test_what_does_not_begin_as_a_call_is_text(output: str) -> None:
    assert read([output]) == (output, [], 0)
    assert read(list(output)) == (output, [], 0)


@pytest.mark.parametrize(
    ("output", "text", "arguments"),
    [
        (tagged("f", '{"a": "Par').removesuffix("}\n</tool_call>"), "", '{"a": "Par'),
        (tagged("f", '{"a": Paris}'), "", '{"a": Paris}'),
        (tagged("f", '{"a": NaN}'), "", '{"a": NaN}'),
        (tagged("f", '{"a": [}}'), "", '{"a": [}}'),
        (tagged("f", '{}, "x": 1'), ', "x": 1}\n</tool_call>', "{}"),
    ],
    ids=["cut off", "no JSON", "no number", "brackets that do not match", "more than name and arguments"],
)
def test_a_broken_call_stands_as_it_was_sent_and_is_not_complete(output: str, text: str, arguments: str) -> None:
    assert read([output]) == (text, [("f", arguments)], 0)
    assert read(list(output)) == (text, [("f", arguments)], 0)


def test_a_call_may_follow_what_only_looked_like_one() -> None:
    output = "<tool_call>oops " + tagged("f", "{}")

    assert read([output]) == ("<tool_call>oops", [("f", "{}")], 1)


@pytest.mark.parametrize("cut_at", range(1, len('<tool_call>\n{"name": "f", "arguments": ')))
def test_the_beginning_of_one_more_call_that_was_cut_off_is_no_text(cut_at: int) -> None:
    output = tagged("f", "{}") + "\n" + tagged("f", "{}")[:cut_at]

    assert read([output]) == ("", [("f", "{}")], 1)
    assert read(list(output)) == ("", [("f", "{}")], 1)


def test_text_between_makes_half_an_opening_text_again() -> None:
    output = tagged("f", "{}") + "\nso 1 <"

    assert read([output]) == read(list(output)) == ("so 1 <", [("f", "{}")], 1)


# Texts that come near to a call, in every state of the parser.
pieces = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tool_", "\n", " ", "x", "}"),
        *('{"name": "f", "', 'arguments": {', 'parameters": {', '"a": 1'),
    ]
)


@given(output=st.lists(pieces, max_size=12).map("".join), data=st.data(), syntax=st.sampled_from([TAGS, BARE]))
@example(output=tagged("f", "{}") + "\n" + tagged("g", "{}") + "\nx", data=None, syntax=TAGS)
def test_what_is_out_after_so_much_text_does_not_depend_on_its_pieces(
    output: str, data: st.DataObject | None, syntax: CallSyntax
) -> None:
    """So another parser goes on where this one was, when it has read as much: streams are handed over so."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(output))))) if data else list(range(len(output)))
    in_pieces, at_once, texts, parts = CallParser(syntax), CallParser(syntax), "", list[CallPart]()
    for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True):
        parsed = in_pieces.push(output[start:end])
        texts, parts = texts + parsed.text, [*parts, *parsed.parts]
        whole = CallParser(syntax).push(output[:end])

        assert (texts, joined(parts)) == (whole.text, joined(list(whole.parts)))
    assert at_once.push(output).text == texts
    assert in_pieces.finish() == at_once.finish()
    assert in_pieces.num_complete == at_once.num_complete


def test_text_is_held_back_only_while_it_may_become_a_call() -> None:
    parser = CallParser(TAGS)

    assert [parser.push(piece).text for piece in ("a", " ", "<", "b", "<tool", "_box>", "\n", "c")] == [
        *("a", "", "", " <b", "", "<tool_box>", "", "\nc")
    ]


def test_arguments_pass_as_they_come() -> None:
    parser = CallParser(TAGS)

    parts = [
        parser.push(piece).parts for piece in ('<tool_call>\n{"name": "f", ', '"arguments": {"a"', ": ", "1}", "}")
    ]

    assert parts == [
        (),
        (CallPart(0, name="f"), CallPart(0, arguments='{"a"')),
        (CallPart(0, arguments=": "),),
        (CallPart(0, arguments="1}"),),
        (),
    ]
    assert parser.num_complete == 1


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (bare("f", '{"a": 1}'), ("", [("f", '{"a": 1}')], 1)),
        (bare("f", "{}") + "\n", ("", [("f", "{}")], 1)),
        ("Sure: " + bare("f", "{}") + " ", ("Sure: " + bare("f", "{}") + " ", [], 0)),
        ('{"answer": 1}\n', ('{"answer": 1}\n', [], 0)),
    ],
)
def test_without_an_opening_only_the_beginning_can_be_a_call(
    output: str, expected: tuple[str, list[tuple[str, str]], int]
) -> None:
    assert read([output], BARE) == expected
    assert read(list(output), BARE) == expected


# Pieces of which outputs are made that come close to calls.
FRAGMENTS = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "<tool", "_call>", "<", "\n", " ", "{", "}", '"', "\\", "[", "]", "x", "é"),
        *('{"name": "f", "arguments": ', '{"name": "f", "parameters": ', '{"a": "}"}', tagged("g", '{"b": []}')),
    ]
)
OUTPUTS = st.lists(FRAGMENTS, max_size=12).map("".join)


@given(OUTPUTS, st.data(), st.sampled_from([TAGS, BARE]))
def test_the_outcome_does_not_depend_on_the_cuts(output: str, data: st.DataObject, syntax: CallSyntax) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(output)), max_size=8)))
    pieces = [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]

    assert read(pieces, syntax) == read([output], syntax) == read(list(output), syntax)


@given(st.text(alphabet="<tool_ca>/ \n{}\"x'é"), st.sampled_from([TAGS, BARE]))
def test_text_without_calls_passes_unchanged(text: str, syntax: CallSyntax) -> None:
    assert read(list(text), syntax) == (text, [], 0)


@given(st.lists(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.lists(st.none()))), max_size=4))
@example([])
def test_calls_that_were_written_are_read(arguments: list[dict[str, object]]) -> None:
    written = [json.dumps(value, ensure_ascii=False) for value in arguments]

    text, calls, num_complete = read(list("\n".join(tagged(f"f{i}", value) for i, value in enumerate(written))))

    assert (text, num_complete) == ("", len(arguments))
    assert calls == [(f"f{i}", value) for i, value in enumerate(written)]


def test_one_that_takes_over_knows_the_call_under_way_when_it_is_fed_what_was_sent() -> None:
    output = "Well. " + tagged("f", '{"a": 1}') + tagged("g", '{"b": 2}')
    sent = output.index("2}")
    fed, unfed = CallParser(TAGS), CallParser(TAGS)
    fed.push(output[:sent])

    assert fed.push(output[sent:]).parts == (CallPart(1, arguments="2}"),)
    assert unfed.push(output[sent:]).text == "2}}\n</tool_call>"
