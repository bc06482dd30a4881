"""The step `chat_template`: a conversation becomes the prompt that the model was trained on.

The template comes with the model (DescribeModel) and is untrusted; where it runs is the TemplateRunner's business. The
result equals that of `apply_chat_template(..., tools=..., add_generation_prompt=True)` in Hugging Face `transformers`;
what a template does not know of tools is spelled out for it first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mesh.errors import InvalidInput
from transformer.steps import segments
from transformer.steps.prompt import Message, PromptModel, Segment, StepServices
from transformer.tools.dialect import dialect_of
from transformer.tools.json_text import JsonObject, write
from transformer.tools.spelling import spell_out

MAX_MESSAGES = 2048
MAX_CONTENT_CHARS = 4_000_000
# A prompt whose template does not take marks in all messages at once is tried message by message, newest first, up to
# this many renderings and this many characters in all of them.
MAX_SEPARATE_RENDERINGS = 64
MAX_SEPARATE_CHARS = 8_000_000

_COMMON_ROLES = ("system", "user", "assistant")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_\-]{0,31}\Z")


class ChatTemplate:
    """Renders messages with the model's own Jinja template."""

    def __init__(self, services: StepServices) -> None:
        self._templates = services.templates
        self._wall_time_s = services.wall_time_s

    async def render(self, model: PromptModel, messages: Sequence[Message], tools: Sequence[JsonObject] = ()) -> str:
        """The prompt, up to where the model's answer begins.

        Raises InvalidInput for wrong messages or a model without a template, TemplateRefusal, TemplateFault.
        """
        check_messages(model, messages)
        [prompt] = await self._run(model, [messages], tools)
        return prompt

    async def render_segments(
        self, model: PromptModel, messages: Sequence[Message], tools: Sequence[JsonObject] = ()
    ) -> list[Segment]:
        """The prompt in parts, the contents of messages explainable. Raises as `render`.

        What the template makes of a content (trimmed, escaped, repeated) is explainable wherever it stands. A content
        whose place cannot be told for sure is not explainable.
        """
        check_messages(model, messages)
        marks = segments.choose_marks((model.chat_template, write(list(tools)), *_texts(messages)))
        if marks is None:
            raise InvalidInput(
                "the messages use every private-use character; they cannot be explained", field="messages"
            )
        marked = [segments.mark(message, marks) for message in messages]
        prompt, with_marks = await self._run(model, [messages, marked], tools)
        spans = segments.find_spans(with_marks, prompt, marks)
        if spans is None:
            spans = await self._spans_one_by_one(model, messages, marked, tools, prompt, marks)
        return segments.split(prompt, spans)

    async def _spans_one_by_one(
        self,
        model: PromptModel,
        messages: Sequence[Message],
        marked: Sequence[Message],
        tools: Sequence[JsonObject],
        prompt: str,
        marks: segments.Marks,
    ) -> list[segments.Span]:
        """For templates that look into a content (a prefix, a separator) and so render it otherwise when marked."""
        num_renderings = min(MAX_SEPARATE_RENDERINGS, 1 + MAX_SEPARATE_CHARS // max(1, len(prompt)))
        newest = range(len(messages))[-num_renderings:]
        variants = [[*messages[:index], marked[index], *messages[index + 1 :]] for index in newest]
        renderings = await self._run(model, variants, tools)
        found = (segments.find_spans(rendering, prompt, marks) for rendering in renderings)
        return [span for spans in found if spans is not None for span in spans]

    async def _run(
        self, model: PromptModel, conversations: Sequence[Sequence[Message]], tools: Sequence[JsonObject]
    ) -> list[str]:
        now_s = self._wall_time_s()
        if dialect_of(model.chat_template).is_native:
            variables = [_variables(model, messages, tools, now_s) for messages in conversations]
        else:
            variables = [_variables(model, spell_out(messages, tools), (), now_s) for messages in conversations]
        return await self._templates.run(f"chat template of '{model.name}'", model.chat_template, variables)


def check_messages(model: PromptModel, messages: Sequence[Message]) -> None:
    """Raises InvalidInput that names what is wrong; the roles that a template knows are those that it spells out."""
    if not model.chat_template:
        raise InvalidInput(
            f"model '{model.name}' has no chat template; send a text instead of messages", field="messages"
        )
    if not messages:
        raise InvalidInput("messages is empty; at least one message is needed", field="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidInput(f"{len(messages)} messages; at most {MAX_MESSAGES}", field="messages")
    num_chars = sum(len(text) for text in _texts(messages))
    if num_chars > MAX_CONTENT_CHARS:
        raise InvalidInput(f"messages hold {num_chars} characters; at most {MAX_CONTENT_CHARS}", field="messages")
    for index, message in enumerate(messages):
        _check_role(model, message.role, f"messages[{index}].role")


def _check_role(model: PromptModel, role: str, field: str) -> None:
    if role in _COMMON_ROLES or (role == "tool" and not dialect_of(model.chat_template).is_native):
        return
    if not role:
        raise InvalidInput(f"{field} is empty; it must be one of {', '.join(_COMMON_ROLES)}", field=field)
    quoted = (f"'{role}'", f'"{role}"')
    if not _ROLE.match(role) or not any(text in model.chat_template for text in quoted):
        raise InvalidInput(
            f"{field} is {role[:32]!r}, which the chat template of '{model.name}' does not know; "
            f"known are {', '.join(_COMMON_ROLES)}",
            field=field,
        )


def _texts(messages: Sequence[Message]) -> Iterator[str]:
    """All that the messages say."""
    for message in messages:
        yield message.content
        yield from (write(call) for call in message.tool_calls)
        yield from (message.tool_call_id, message.name)


def _variables(
    model: PromptModel, messages: Sequence[Message], tools: Sequence[JsonObject], now_s: float
) -> dict[str, object]:
    """What a template sees, as `transformers` passes it; special tokens that the model lacks stay undefined."""
    tokens = {"bos_token": model.bos_token, "eos_token": model.eos_token}
    return {
        "messages": [_message(message) for message in messages],
        "add_generation_prompt": True,
        "tools": list(tools) or None,
        "documents": None,
        "now_s": now_s,
        **{name: text for name, text in tokens.items() if text},
    }


def _message(message: Message) -> dict[str, object]:
    """Templates ask which keys there are, so what a message lacks is left out."""
    extras = {"tool_calls": message.tool_calls, "tool_call_id": message.tool_call_id, "name": message.name}
    return {
        "role": message.role,
        "content": message.content,
        **{key: value for key, value in extras.items() if value},
    }
