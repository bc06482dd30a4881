"""What Anthropic's clients send to /v1/messages and /v1/messages/count_tokens: checked once, here, for the mesh.

As Anthropic's own servers do, a field that is not known is refused. What is known and changes nothing here is in
IGNORED, what would change the answer and is not served in NOT_SERVED; docs/anthropic.md lists all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Discriminator, Field, Tag

from gateway.rest import openai_not_served
from gateway.rest.anthropic_messages import MAX_MESSAGES, Known, MessageParam, Texts, chat_messages
from gateway.rest.bodies import Json
from gateway.rest.guides import Given, only_guide
from gateway.rest.openai_tools import MAX_TOOLS, NAMED, FunctionName, offer
from gateway.rest.sampling_fields import MAX_INT32, MAX_STOPS
from gateway.rest.validation import tag_of_type, validated
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

IGNORED = frozenset(
    {
        "cache_control",
        "diagnostics",
        "inference_geo",
        "metadata",
        "service_tier",
        "speed",
        "user_profile_id",
        "workspace_id",
    }
)
# A model that does not think has nothing to adapt.
NOT_SERVED: openai_not_served.Table = {
    "container": (),
    "context_management": ({},),
    "mcp_servers": ([],),
    "thinking": ({"type": "disabled"}, {"type": "adaptive"}),
}


class ToolParam(Known):
    """A function. strict, eager_input_streaming: taken and not needed: a demanded call always fits, and streams."""

    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, Json]
    strict: bool | None = None
    eager_input_streaming: bool | None = None

    def to_json(self) -> dict[str, Json]:
        """OpenAI's tool object."""
        # In OpenAI's order: a template may write the object out as it is.
        about = {} if self.description is None else {"description": self.description}
        return {"type": "function", "function": {"name": self.name, **about, "parameters": self.input_schema}}


class _Choice(Known):
    """disable_parallel_tool_use: only the first call is told."""

    disable_parallel_tool_use: bool | None = None


class ToolChoiceParam(_Choice):
    type: Literal["auto", "any", "none"]

    @property
    def word(self) -> str:
        """As mesh.v1.ChatMessages has it."""
        return "required" if self.type == "any" else self.type


class NamedToolChoiceParam(_Choice):
    type: Literal["tool"]
    name: FunctionName

    @property
    def word(self) -> str:
        """As mesh.v1.ChatMessages has it."""
        return NAMED + self.name


def _tag_of_choice(value: Json) -> str:
    tag = tag_of_type(value)
    return "#any" if tag in ("#auto", "#none") else tag


_Choices = Discriminator(
    _tag_of_choice, custom_error_type="choice", custom_error_message="its type must be 'auto', 'any', 'tool' or 'none'"
)


class OutputFormat(Known):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Json], Field(alias="schema")]


class OutputConfig(Known):
    """effort: ignored."""

    effort: Json = None
    format: OutputFormat | None = None


class CountTokensRequest(Known):
    """A conversation, and what is asked of the answer."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    model: Annotated[str, Field(max_length=256)]
    messages: Annotated[list[MessageParam], Field(min_length=1, max_length=MAX_MESSAGES)]
    system: Texts | None = None
    tools: Annotated[list[ToolParam], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: (
        Annotated[Annotated[ToolChoiceParam, Tag("#any")] | Annotated[NamedToolChoiceParam, Tag("#tool")], _Choices]
        | None
    ) = None
    output_config: OutputConfig | None = None

    @property
    def one_call(self) -> bool:
        """True when only the first call shall be told."""
        return bool(self.tool_choice and self.tool_choice.disable_parallel_tool_use)

    def chat(self) -> lm.ChatMessages:
        """The conversation for a model. Raises InvalidInput."""
        chat = chat_messages(self.system, self.messages)
        choice = None if self.tool_choice is None else self.tool_choice.word
        offer(chat, [tool.to_json() for tool in self.tools or ()], choice, "tools[{}].name")
        return chat

    def to_tokenize(self) -> lm.TokenizeRequest:
        """What counts the tokens of the prompt. Raises InvalidInput."""
        return lm.TokenizeRequest(model_name=self.model, messages=self.chat())


class MessagesRequest(CountTokensRequest):
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    stop_sequences: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_STOPS)] | None = None

    def to_generate(self) -> lm.GenerateRequest:
        """The request to the mesh. Raises InvalidInput."""
        sampling = lm.SamplingParameters(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            stop=self.stop_sequences or (),
            guide=self._guide(),
        )
        return lm.GenerateRequest(model_name=self.model, sampling=sampling, messages=self.chat())

    def _guide(self) -> lm.Guide | None:
        wanted = self.output_config.format if self.output_config else None
        found = only_guide([Given("output_config.format.schema", "json_schema", wanted and wanted.schema_)])
        if found is None:
            return None
        if self.tool_choice is not None and self.tool_choice.type in ("any", "tool"):
            raise InvalidInput(
                "'tool_choice' demands a tool call, 'output_config.format' another output; give one of them",
                field="tool_choice",
            )
        return found[1]


R = TypeVar("R", bound=CountTokensRequest)


def parse_request(kind: type[R], body: Mapping[str, Json]) -> R:
    """The request in `body`. Raises InvalidInput."""
    openai_not_served.refuse(body, NOT_SERVED)
    return validated(kind, {name: value for name, value in body.items() if name not in IGNORED | NOT_SERVED.keys()})
