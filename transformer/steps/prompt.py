"""What steps that make prompts work with: messages, the model's template, and the port that runs templates.

Plain values: no wire types, so that a step can be read and tested without a server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from transformer.tools.json_text import JsonObject


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    tool_calls: OpenAI's objects, but that their arguments are objects. tool_call_id: of a tool's message. name: of who
    speaks, or of the tool.
    """

    role: str
    content: str
    tool_calls: tuple[JsonObject, ...] = ()
    tool_call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a prompt; `explainable` is True for what somebody said, False for what the template added."""

    text: str
    explainable: bool


@dataclass(frozen=True, slots=True)
class PromptModel:
    """What must be known of a model to write prompts for it. Texts are empty where the model has none."""

    name: str
    digest: str
    chat_template: str
    bos_token: str
    eos_token: str


class TemplateRunner(Protocol):
    """Runs untrusted Jinja templates within bounds of time, memory and output size."""

    async def run(self, what: str, template: str, variables: Sequence[Mapping[str, object]]) -> list[str]:
        """The template's output for each set of variables; `what` names the template in errors.

        Raises TemplateRefusal (the template rejects what it was given), TemplateFault (it is broken, or exceeds its
        bounds), Overloaded.
        """
        ...


@dataclass(frozen=True, slots=True)
class StepServices:
    """What a step may be built with. A step that needs more (a registry of prompts, say) adds a field here.

    wall_time_s: seconds since the epoch, for templates that print the date.
    """

    templates: TemplateRunner
    wall_time_s: Callable[[], float]


@runtime_checkable
class PromptStep(Protocol):
    """A step that writes the prompt for a conversation. Built with StepServices."""

    async def render(self, model: PromptModel, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> str:
        """The prompt. tools: OpenAI's tool objects. Raises InvalidInput that names `messages[i].<field>`."""
        ...

    async def render_segments(
        self, model: PromptModel, messages: Sequence[Message], tools: Sequence[JsonObject] = ()
    ) -> list[Segment]:
        """The prompt in parts: joined, they are what `render` gives. Raises as `render`."""
        ...
