"""response_format, guided_* and structured_outputs: by unit, and by the stock client."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from gateway.rest.openai_guides import GuideFields
from gateway.rest.validation import validated
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm
from tests.gateway.conftest import Door

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
SCHEMA_TEXT = '{"type":"object","properties":{"city":{"type":"string"}}}'
OPENAIS = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}


class Place(BaseModel):
    city: str
    inhabitants: int


def guide(**fields: Any) -> tuple[str, lm.Guide] | None:
    return validated(GuideFields, fields).guide()


@pytest.mark.parametrize(
    ("fields", "field", "expected"),
    [
        ({"response_format": OPENAIS}, "response_format", lm.Guide(json_schema=SCHEMA_TEXT)),
        ({"response_format": {"type": "json_object"}}, "response_format", lm.Guide(json_object=True)),
        ({"guided_json": SCHEMA}, "guided_json", lm.Guide(json_schema=SCHEMA_TEXT)),
        ({"guided_json": SCHEMA_TEXT}, "guided_json", lm.Guide(json_schema=SCHEMA_TEXT)),
        ({"guided_regex": "a+"}, "guided_regex", lm.Guide(regex="a+")),
        ({"guided_choice": ["a", "b"]}, "guided_choice", lm.Guide(choices=lm.Choices(texts=["a", "b"]))),
        ({"guided_grammar": "start: a"}, "guided_grammar", lm.Guide(grammar="start: a")),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json", lm.Guide(json_schema=SCHEMA_TEXT)),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex", lm.Guide(regex="a+")),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice",
         lm.Guide(choices=lm.Choices(texts=["a"]))),
        ({"structured_outputs": {"grammar": "start: a"}}, "structured_outputs.grammar", lm.Guide(grammar="start: a")),
        ({"structured_outputs": {"json_object": True, "disable_any_whitespace": False, "structural_tag": None}},
         "structured_outputs.json_object", lm.Guide(json_object=True)),
    ],
)  # fmt: skip
def test_every_way_to_say_it(fields: dict[str, Any], field: str, expected: lm.Guide) -> None:
    assert guide(**fields) == (field, expected)


def test_text_is_no_guide() -> None:
    assert guide() is None
    assert guide(response_format={"type": "text"}, structured_outputs={"json_object": False}) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
         "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": True}}},
         "response_format.json_schema.schema"),
        ({"guided_regex": 7}, "guided_regex"),
        ({"guided_choice": "a"}, "guided_choice"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"response_format": OPENAIS, "guided_regex": "a"}, "guided_regex"),
    ],
)  # fmt: skip
def test_wrong_guide_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        guide(**fields)

    assert raised.value.field == param


async def test_stock_client_parses_an_answer_into_its_model(client: openai.AsyncOpenAI, door: Door) -> None:
    answer = await client.chat.completions.parse(
        model="chat", messages=[{"role": "user", "content": "Where?"}], response_format=Place
    )

    assert answer.choices[0].message.parsed == Place(city="Paris", inhabitants=7)
    assert "inhabitants" in door.model.requests[0].sampling.guide.json_schema
    (record,) = await door.records()
    assert "inhabitants" in record["sampling"]["guide"]["json_schema"]


async def test_stock_client_streams_an_answer_into_its_model(client: openai.AsyncOpenAI) -> None:
    async with client.chat.completions.stream(
        model="chat", messages=[{"role": "user", "content": "Where?"}], response_format=Place
    ) as stream:
        answer = await stream.get_final_completion()

    assert answer.choices[0].message.parsed == Place(city="Paris", inhabitants=7)


async def test_vllms_fields_reach_the_model(client: openai.AsyncOpenAI, door: Door) -> None:
    answer = await client.completions.create(
        model="chat", prompt="Yes or no?", extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )

    assert answer.choices[0].text == "yes"
    assert list(door.model.requests[0].sampling.guide.choices.texts) == ["yes", "no"]


async def test_guide_that_the_predictor_refuses_is_blamed_by_the_clients_name(client: openai.AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="unclosed group") as raised:
            await client.completions.create(model="chat", prompt="x", stream=stream, extra_body={"guided_regex": "("})
        assert raised.value.param == "guided_regex"
