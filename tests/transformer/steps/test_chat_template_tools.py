"""Tools, calls and results reach a template as transformers passes them, or are spelled out for one that knows none."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mesh.errors import InvalidInput, MeshError
from tests.predictor.llm.qwen2_wheels import qwen2_coder
from transformer.steps.chat_template import MAX_CONTENT_CHARS, ChatTemplate
from transformer.steps.prompt import Message, PromptModel, StepServices
from transformer.template_runner import TemplateLimits, TemplateRunnerPool

pytestmark = pytest.mark.asyncio(loop_scope="module")


def call(call_id: str, **arguments: object) -> dict[str, object]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


WEATHER: dict[str, object] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Weather "now", in °C <b>',
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}
CLOCK: dict[str, object] = {"type": "function", "function": {"name": "clock"}}
QUESTION = Message("user", "Weather in Köln?")
ASKED = Message("assistant", "", (call("call_1", city="Köln", days=[1, None]),))
TOLD = Message("tool", '{"sky": "grau"}', tool_call_id="call_1", name="get_weather")
CONVERSATIONS = {
    "a question": [QUESTION],
    "with a system prompt": [Message("system", "Be brief."), QUESTION],
    "a call and its result": [QUESTION, ASKED, TOLD],
    "text before a call": [QUESTION, replace(ASKED, content="Let me see."), TOLD, Message("assistant", "Grey.")],
    "arguments that are no JSON": [
        QUESTION,
        Message("assistant", "", ({"function": {"name": "get_weather", "arguments": '{"city'}},)),
        TOLD,
    ],
}
SEVERAL_CALLS = [
    QUESTION,
    Message("assistant", "Two.", (call("a", city="Köln"), call("b", city="Bonn"))),
    TOLD,
    replace(TOLD, content="sonnig", tool_call_id="b"),
]


def model(template: str) -> PromptModel:
    return PromptModel(name="m", digest="", chat_template=template, bos_token="<s>", eos_token="</s>")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def step() -> AsyncIterator[ChatTemplate]:
    """One for all tests here: its worker is a process."""
    pool = TemplateRunnerPool(TemplateLimits(cpu_s=10.0))
    await pool.start()
    yield ChatTemplate(StepServices(templates=pool, wall_time_s=time.time))
    await pool.close()


@pytest.fixture(scope="module")
def qwen2_template(artifact_cache_dir: Path) -> str:
    """The template in the GGUF file of Qwen2.5-Coder-0.5B-Instruct."""
    from gguf import GGUFReader

    try:
        path = asyncio.run(qwen2_coder(artifact_cache_dir))
    except MeshError as error:
        pytest.skip(f"the weights cannot be fetched: {error.message}")
    template = GGUFReader(path).fields["tokenizer.chat_template"].contents()
    assert isinstance(template, str)
    return template


def reference(template: str, messages: Sequence[Message], tools: Sequence[dict[str, object]]) -> str:
    """What Hugging Face's own code makes of it: a key of a message is there when it says something."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), bos_token="<s>", eos_token="</s>")
    chat: list[dict[str, Any]] = []
    for message in messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            entry["tool_calls"] = list(message.tool_calls)
        if message.tool_call_id:
            entry["tool_call_id"] = message.tool_call_id
        if message.name:
            entry["name"] = message.name
        chat.append(entry)
    rendered = tokenizer.apply_chat_template(
        chat, tools=list(tools) or None, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert isinstance(rendered, str)
    return rendered


@pytest.mark.parametrize("tools", [[], [WEATHER, CLOCK]], ids=["no tools", "two tools"])
@pytest.mark.parametrize("template", ["hermes", "parameters"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
async def test_prompt_equals_that_of_transformers(
    step: ChatTemplate,
    templates: dict[str, str],
    template: str,
    messages: list[Message],
    tools: list[dict[str, object]],
) -> None:
    source = templates[template]

    prompt = await step.render(model(source), messages, tools)

    assert prompt == reference(source, messages, tools)
    assert ("get_weather" in prompt) == bool(tools or len(messages) > 2)


@pytest.mark.parametrize("tools", [[], [WEATHER, CLOCK]], ids=["no tools", "two tools"])
@pytest.mark.parametrize(
    "messages", [*CONVERSATIONS.values(), SEVERAL_CALLS], ids=[*CONVERSATIONS.keys(), "several calls"]
)
async def test_prompt_of_qwen_equals_that_of_transformers(
    step: ChatTemplate, qwen2_template: str, messages: list[Message], tools: list[dict[str, object]]
) -> None:
    assert await step.render(model(qwen2_template), messages, tools) == reference(qwen2_template, messages, tools)


async def test_a_template_without_tools_gets_them_in_the_system_message(
    step: ChatTemplate, templates: dict[str, str]
) -> None:
    smollm2 = model(templates["smollm2"])

    alone = await step.render(smollm2, [QUESTION], [WEATHER])
    with_system = await step.render(smollm2, [Message("system", "Be brief."), QUESTION], [WEATHER])

    told = alone.partition("<|im_end|>")[0].removeprefix("<|im_start|>system\n")
    assert f"<tools>\n{json.dumps(WEATHER, ensure_ascii=False)}\n</tools>" in told
    assert '<tool_call>\n{"name": ' in told
    assert with_system == alone.replace("<|im_start|>system\n", "<|im_start|>system\nBe brief.\n\n")


async def test_a_template_without_tools_gets_calls_and_results_as_text(
    step: ChatTemplate, templates: dict[str, str]
) -> None:
    prompt = await step.render(model(templates["smollm2"]), SEVERAL_CALLS)

    assert prompt.partition("Weather in Köln?<|im_end|>\n")[2] == (
        "<|im_start|>assistant\nTwo.\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn"}}\n</tool_call><|im_end|>\n'
        '<|im_start|>user\n<tool_response>\n{"sky": "grau"}\n</tool_response>\n'
        "<tool_response>\nsonnig\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", ["smollm2", "hermes"])
async def test_what_a_tool_said_is_explainable(step: ChatTemplate, templates: dict[str, str], template: str) -> None:
    segments = await step.render_segments(model(templates[template]), [QUESTION, ASKED, TOLD], [WEATHER])

    assert [segment.text for segment in segments if segment.explainable] == ["Weather in Köln?", '{"sky": "grau"}']


async def test_private_use_characters_of_a_tool_are_no_marks(step: ChatTemplate, templates: dict[str, str]) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "\U000f0000"}}

    segments = await step.render_segments(model(templates["hermes"]), [QUESTION], [tool])

    assert [segment.text for segment in segments if segment.explainable] == ["Weather in Köln?"]


async def test_calls_count_as_contents_of_messages(step: ChatTemplate, templates: dict[str, str]) -> None:
    long = Message("assistant", "", (call("a", city="x" * MAX_CONTENT_CHARS),))

    with pytest.raises(InvalidInput, match="characters; at most 4000000"):
        await step.render(model(templates["hermes"]), [QUESTION, long])
