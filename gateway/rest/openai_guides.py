"""The ways in which OpenAI's and vLLM's clients say what an output must look like: response_format, guided_*,
structured_outputs. All of them are the same guides; a request may use one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from gateway.rest.bodies import Json
from gateway.rest.guides import Given, only_guide
from gateway.rest.validation import Strict
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm


class JsonSchema(Strict):
    """strict: taken and not needed: the output always fits."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Json], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Strict):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


def _without_unset(value: Json) -> Json:
    """vLLM's clients may send every option there is, those that ask for nothing too."""
    return {k: v for k, v in value.items() if v is not None and v is not False} if isinstance(value, dict) else value


class StructuredOutputs(Strict):
    """vLLM's names. Its other options (whitespace_pattern, structural_tag …) would change the output: refused."""

    model_config = ConfigDict(extra="forbid")

    json_: Annotated[Json, Field(alias="json")] = None
    regex: Json = None
    choice: Json = None
    grammar: Json = None
    json_object: Json = None


class GuideFields(Strict):
    """vLLM's guided_* are the older form of its structured_outputs."""

    response_format: ResponseFormat | None = None
    structured_outputs: Annotated[StructuredOutputs, BeforeValidator(_without_unset)] | None = None
    guided_json: Json = None
    guided_regex: Json = None
    guided_choice: Json = None
    guided_grammar: Json = None

    def guide(self) -> tuple[str, lm.Guide] | None:
        """The guide and the field that gave it; None without. Raises InvalidInput."""
        return only_guide(self._given())

    def _given(self) -> Iterator[Given]:
        if self.response_format is not None:
            yield _of_format(self.response_format)
        yield Given("guided_json", "json_schema", self.guided_json)
        yield Given("guided_regex", "regex", self.guided_regex)
        yield Given("guided_choice", "choices", self.guided_choice)
        yield Given("guided_grammar", "grammar", self.guided_grammar)
        if (given := self.structured_outputs) is not None:
            yield Given("structured_outputs.json", "json_schema", given.json_)
            yield Given("structured_outputs.regex", "regex", given.regex)
            yield Given("structured_outputs.choice", "choices", given.choice)
            yield Given("structured_outputs.grammar", "grammar", given.grammar)
            yield Given("structured_outputs.json_object", "json_object", given.json_object)


def _of_format(wanted: ResponseFormat) -> Given:
    if wanted.type == "json_object":
        return Given("response_format", "json_object", True)
    if wanted.type == "text":
        return Given("response_format", "json_object", None)
    if wanted.json_schema is None:
        raise InvalidInput("'response_format.json_schema' is required", field="response_format.json_schema")
    return Given("response_format", "json_schema", wanted.json_schema.schema_)
