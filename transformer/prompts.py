"""Writes the prompt for a conversation. Which step does it is the deployment's choice; which template, the model's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace

from mesh import tracing
from mesh.errors import InvalidInput
from mesh.plugins import load
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.registry_pb2 import Deployment
from transformer.conversation import read_conversation
from transformer.descriptions import Descriptions
from transformer.metrics import TransformerMetrics
from transformer.steps import STEPS
from transformer.steps.prompt import PromptStep, Segment, StepServices
from transformer.tool_calls import ToolCalling
from transformer.tools.dialect import dialect_of

_tracer: trace.Tracer = tracing.tracer(__name__)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """tool_calling: None when the model has no tools to call."""

    text: str
    tool_calling: ToolCalling | None = None


class Prompts:
    """Steps are built when a deployment first asks for them, and shared."""

    def __init__(
        self,
        descriptions: Descriptions,
        services: StepServices,
        metrics: TransformerMetrics,
    ) -> None:
        self._descriptions = descriptions
        self._services = services
        self._metrics = metrics
        self._steps: dict[str, object] = {}

    async def render(self, deployment: Deployment, version: str, conversation: lm.ChatMessages) -> ChatPrompt:
        """The prompt. Raises InvalidInput when the deployment has no step for it, and what the step raises."""
        step = self._prompt_step(deployment)
        model = await self._descriptions.get(deployment, version)
        read = read_conversation(conversation)
        with self._measured(deployment):
            text = await step.render(model, read.messages, read.declarations)
        if read.tool_use is None:
            return ChatPrompt(text)
        return ChatPrompt(text, ToolCalling(dialect_of(model.chat_template).format, read.tool_use))

    async def render_all(
        self, deployment: Deployment, version: str, conversations: Mapping[str, lm.ChatMessages]
    ) -> dict[str, str]:
        """The prompts, under the keys of their conversations, which errors name; equal ones are rendered once.

        Raises as `render`.
        """
        step = self._prompt_step(deployment)
        model = await self._descriptions.get(deployment, version)
        known: dict[bytes, str] = {}
        prompts: dict[str, str] = {}
        with self._measured(deployment):
            for place, conversation in conversations.items():
                content = conversation.SerializeToString(deterministic=True)
                if content not in known:
                    try:
                        read = read_conversation(conversation)
                        known[content] = await step.render(model, read.messages, read.declarations)
                    except InvalidInput as error:
                        raise InvalidInput(f"{place}: {error.message}", field=f"{place}.{error.field}") from error
                prompts[place] = known[content]
        return prompts

    async def render_segments(
        self, deployment: Deployment, version: str, conversation: lm.ChatMessages
    ) -> list[Segment]:
        """The prompt in parts, contents of messages explainable. Raises as `render`."""
        step = self._prompt_step(deployment)
        model = await self._descriptions.get(deployment, version)
        read = read_conversation(conversation)
        with self._measured(deployment):
            return await step.render_segments(model, read.messages, read.declarations)

    @contextmanager
    def _measured(self, deployment: Deployment) -> Iterator[None]:
        with _tracer.start_as_current_span("render_prompt"), self._metrics.render.labels(deployment.name).time():
            yield

    def _prompt_step(self, deployment: Deployment) -> PromptStep:
        for name in deployment.transformer.steps:
            step = self._steps.get(name)
            if step is None:
                step = self._steps[name] = load(STEPS, name, "transformer step")(self._services)
            if isinstance(step, PromptStep):
                return step
        raise InvalidInput(
            f"deployment '{deployment.name}' has no transformer step that renders messages (chat_template); "
            "send a text instead of messages",
            field="messages",
        )
