"""What OpenAI's clients send to /v1/responses: checked once, here, and turned into one GenerateRequest.

Nothing is kept between requests: what asks for that is refused by name, as is what else is not served. Fields that
change nothing here are in IGNORED; docs/api.md lists all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from gateway.rest import openai_not_served
from gateway.rest.bodies import Json
from gateway.rest.guides import MAX_SOURCE_BYTES, Given, bounded_json, only_guide
from gateway.rest.openai_tools import MAX_TOOLS, MAX_TOOLS_BYTES, NAMED, FunctionName, offer
from gateway.rest.responses_input import Input, chat_messages
from gateway.rest.sampling_fields import MAX_INT32, SamplingFields
from gateway.rest.validation import Strict, tag_of_text, validated
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

MAX_LOGPROBS = 20
MAX_METADATA = 16
# Asks for the log-probabilities of the output.
LOGPROBS = "message.output_text.logprobs"

IGNORED = frozenset(
    {
        "max_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "stream_options",
        "user",
    }
)
NOT_SERVED: openai_not_served.Table = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": ([],),
    "conversation": (),
    "image": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "store": (False,),
    "truncation": ("disabled",),
}


class FunctionTool(Strict):
    """strict: taken and not needed: the arguments of a demanded call always fit."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Json] | None = None
    strict: bool | None = None

    def to_json(self) -> dict[str, Json]:
        """The tool object of chat completions."""
        given = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {name: value for name, value in given.items() if value is not None}}


class NamedFunction(Strict):
    type: Literal["function"]
    name: FunctionName


_ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("#text")] | Annotated[NamedFunction, Tag("#parts")],
    Discriminator(tag_of_text),
]


class TextFormat(Strict):
    """strict: taken and not needed: the output always fits."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Json] | None, Field(alias="schema")] = None
    strict: bool | None = None

    def given(self) -> Given:
        """What the output must look like. Raises InvalidInput."""
        if self.type != "json_schema":
            return Given("text.format", "json_object", True if self.type == "json_object" else None)
        for name, value in (("name", self.name), ("schema", self.schema_)):
            if value is None:
                raise InvalidInput(f"'text.format.{name}' is required", field=f"text.format.{name}")
        # The last event of a stream repeats the schema within four more objects: what is too deep for that is refused.
        bounded_json([[[[self.schema_]]]], "text.format.schema", MAX_SOURCE_BYTES)
        return Given("text.format", "json_schema", self.schema_)


class TextConfig(Strict):
    """verbosity: ignored."""

    format: TextFormat | None = None


class ResponsesRequest(SamplingFields):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    model: Annotated[str, Field(max_length=256)]
    input: Input
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None
    stream: bool | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: _ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=MAX_METADATA)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT32)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=MAX_INT32)] | None = None
    cache_salt: Annotated[str, Field(max_length=256)] | None = None

    @property
    def one_call(self) -> bool:
        """True when only the first call shall be told."""
        return self.parallel_tool_calls is False

    @property
    def format(self) -> TextFormat:
        """What the output must look like."""
        return (self.text and self.text.format) or TextFormat()

    def to_generate(self) -> lm.GenerateRequest:
        """The request to the mesh. Raises InvalidInput."""
        chat = chat_messages(self.instructions, self.input)
        # As the schema of a text: within two more.
        bounded_json([[[tool.model_dump() for tool in self.tools or ()]]], "tools", MAX_TOOLS_BYTES)
        offer(chat, [tool.to_json() for tool in self.tools or ()], self._choice(), "tools[{}].name")
        return lm.GenerateRequest(
            model_name=self.model,
            sampling=self._sampling(),
            messages=chat,
            priority=self.priority or 0,
            cache_salt=self.cache_salt or "",
        )

    def field_of(self, mesh_field: str) -> str:
        """What the client calls what an error of a later hop names in the mesh's words."""
        head = mesh_field.removeprefix("sampling.").partition(".")[0].partition("[")[0]
        if mesh_field == "messages.tool_choice":
            return "tool_choice"
        if mesh_field == "messages.tools_json":
            return "tools"
        if head in ("guide", *lm.Guide.DESCRIPTOR.fields_by_name):
            return "tools" if self.tools and self.format.type == "text" else "text.format"
        return {"messages": "input", "prompt": "input", "max_tokens": "max_output_tokens"}.get(head, mesh_field)

    def _choice(self) -> str | None:
        return NAMED + self.tool_choice.name if isinstance(self.tool_choice, NamedFunction) else self.tool_choice

    def _sampling(self) -> lm.SamplingParameters:
        sampling = self.to_sampling(self.max_output_tokens)
        guide = only_guide([self.format.given()])
        if guide is not None and self._choice() not in (None, "none", "auto"):
            raise InvalidInput(
                "'tool_choice' demands a tool call, 'text.format' another output; give one of them", field="tool_choice"
            )
        sampling.MergeFrom(
            lm.SamplingParameters(
                top_k=None if self.top_k is None else max(self.top_k, 0),  # -1 is vLLM's word for "all"
                seed=None if self.seed is None else self.seed & (2**64 - 1),
                logprobs=(self.top_logprobs or 0) if LOGPROBS in (self.include or ()) else None,
                guide=guide[1] if guide else None,
            )
        )
        return sampling


def parse_request(body: Mapping[str, Json]) -> ResponsesRequest:
    """The request in `body`. Raises InvalidInput whose `field` is OpenAI's `param`."""
    openai_not_served.refuse(body, NOT_SERVED)
    return validated(ResponsesRequest, body)
