"""Writes the prompt for a conversation. Which step does it is the deployment's choice; which template, the model's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from opentelemetry import trace

from mesh import tracing
from mesh.errors import InvalidInput
from mesh.plugins import load
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.registry_pb2 import Deployment
from transformer.descriptions import Descriptions
from transformer.metrics import TransformerMetrics
from transformer.steps import STEPS
from transformer.steps.prompt import Message, PromptStep, Segment, StepServices

_tracer: trace.Tracer = tracing.tracer(__name__)


class Prompts:
    """Steps are built when a deployment first asks for them, and shared."""

    def __init__(
        self,
        descriptions: Descriptions,
        services: StepServices,
        metrics: TransformerMetrics,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._descriptions = descriptions
        self._services = services
        self._metrics = metrics
        self._now = now
        self._steps: dict[str, object] = {}

    async def render(self, deployment: Deployment, version: str, conversations: Sequence[lm.ChatMessages]) -> list[str]:
        """One prompt per conversation; equal ones are rendered once.

        Raises InvalidInput when the deployment has no step for it, and what the step raises.
        """
        step = self._prompt_step(deployment)
        model = await self._descriptions.get(deployment, version)
        prompts: dict[bytes, str] = {}
        with _tracer.start_as_current_span("render_prompt"), self._metrics.render.labels(deployment.name).time():
            keys = [conversation.SerializeToString(deterministic=True) for conversation in conversations]
            for key, conversation in zip(keys, conversations, strict=True):
                if key not in prompts:
                    prompts[key] = await step.render(model, _messages(conversation))
        return [prompts[key] for key in keys]

    async def render_segments(
        self, deployment: Deployment, version: str, conversation: lm.ChatMessages
    ) -> list[Segment]:
        """The prompt in parts, contents of messages explainable. Raises as `render`."""
        step = self._prompt_step(deployment)
        model = await self._descriptions.get(deployment, version)
        with _tracer.start_as_current_span("render_prompt"), self._metrics.render.labels(deployment.name).time():
            return await step.render_segments(model, _messages(conversation))

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


def _messages(conversation: lm.ChatMessages) -> list[Message]:
    return [Message(message.role, message.content) for message in conversation.messages]
