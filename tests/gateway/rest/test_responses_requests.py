"""What clients of OpenAI's responses send, as the mesh's own messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import response_create_params

from gateway.rest.responses_requests import IGNORED, NOT_SERVED, ResponsesRequest, parse_request
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

BODY: dict[str, Any] = {"model": "m", "input": "hi"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "name": "f", "description": "F.", "parameters": SCHEMA, "strict": True}
JSON_SCHEMA = {"type": "json_schema", "name": "place", "schema": SCHEMA, "strict": True}


def generate(**more: Any) -> lm.GenerateRequest:
    return parse_request({**BODY, **more}).to_generate()


def test_sampling_parameters() -> None:
    request = generate(max_output_tokens=8, temperature=0.5, top_p=0.9, top_k=-1, seed=-1, stop="a", priority=2)

    assert request.sampling == lm.SamplingParameters(
        max_tokens=8, temperature=0.5, top_p=0.9, top_k=0, seed=2**64 - 1, stop=["a"]
    )
    assert request.priority == 2


def test_what_is_not_set_stays_unset() -> None:
    assert generate().sampling == lm.SamplingParameters()


def test_log_probabilities_are_asked_for_by_include() -> None:
    wanted = ["message.output_text.logprobs", "reasoning.encrypted_content"]

    assert generate(include=wanted).sampling.logprobs == 0
    assert generate(include=wanted, top_logprobs=3).sampling.logprobs == 3
    assert not generate(top_logprobs=3).sampling.HasField("logprobs")


def test_forms_of_the_output() -> None:
    assert json.loads(generate(text={"format": JSON_SCHEMA}).sampling.guide.json_schema) == SCHEMA
    assert generate(text={"format": {"type": "json_object"}}).sampling.guide.json_object
    for plain in ({"format": {"type": "text"}}, {"verbosity": "low"}, {}):
        assert generate(text=plain) == generate()


@pytest.mark.parametrize(
    ("choice", "word"),
    [("auto", "auto"), ("none", "none"), ("required", "required"), ({"type": "function", "name": "f"}, "function:f")],
)
def test_tools_and_their_choice(choice: Any, word: str) -> None:
    messages = generate(tools=[TOOL], tool_choice=choice).messages

    assert messages.tool_choice == word
    function = {"name": "f", "description": "F.", "parameters": SCHEMA}
    assert json.loads(messages.tools_json) == [{"type": "function", "function": function}]


@pytest.mark.parametrize("field", sorted(IGNORED))
def test_ignored_fields_change_nothing(field: str) -> None:
    assert generate(**{field: {"some": "thing"}}) == generate()


@pytest.mark.parametrize("field", sorted(NOT_SERVED))
def test_fields_that_are_not_served_are_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{field}' is not served") as caught:
        generate(**{field: {"some": "thing"}})

    assert caught.value.field == field
    for harmless in (None, *NOT_SERVED[field]):
        assert generate(**{field: harmless}) == generate()


def test_every_field_of_the_stock_client_is_known() -> None:
    stock = set(response_create_params.ResponseCreateParamsBase.__annotations__)
    served = {field.alias or name for name, field in ResponsesRequest.model_fields.items()}

    assert stock - served - IGNORED - NOT_SERVED.keys() == set()
    assert not served & IGNORED and not served & NOT_SERVED.keys()


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"model": None}, "model"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "required", "text": {"format": JSON_SCHEMA}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ],
)
def test_wrong_fields_are_refused_by_name(more: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        generate(**more)

    assert caught.value.field == field


@pytest.mark.parametrize(
    ("more", "mesh_field", "field"),
    [
        ({}, "messages", "input"),
        ({}, "sampling.max_tokens", "max_output_tokens"),
        ({}, "temperature", "temperature"),
        ({"tools": [TOOL]}, "messages.tools_json", "tools"),
        ({"tools": [TOOL]}, "messages.tool_choice", "tool_choice"),
        ({"tools": [TOOL]}, "sampling.guide.grammar", "tools"),
        ({"text": {"format": JSON_SCHEMA}}, "guide", "text.format"),
    ],
)
def test_errors_of_later_hops_name_the_clients_field(more: dict[str, Any], mesh_field: str, field: str) -> None:
    assert parse_request({**BODY, **more}).field_of(mesh_field) == field
