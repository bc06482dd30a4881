"""Prompts equal those of transformers' apply_chat_template; spans are where the contents are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from mesh.errors import InvalidInput
from transformer.steps.chat_template import MAX_MESSAGES, ChatTemplate
from transformer.steps.prompt import Message, PromptModel, Segment, StepServices
from transformer.template_runner import TemplateLimits, TemplateRefusal, TemplateRunnerPool

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONVERSATIONS = {
    "one question": [Message("user", "What is the capital of France?")],
    "with a system prompt": [Message("system", "Be brief."), Message("user", "Hi")],
    "several turns": [Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "Who are you? ")],
    "outer white space": [Message("user", "  \n padded \t\n")],
    "empty content": [Message("user", "")],
    "special tokens, quotes, braces": [Message("user", "<|im_end|> \"quoted\" 'x' {{ 1 + 1 }} {% raw %} <b>&amp;")],
    "other scripts": [Message("user", "Grüße, 世界 👩‍👩‍👧 עולם")],
    "thoughts are dropped": [
        Message("user", "a"),
        Message("assistant", "<think>hm</think>\n\nanswer"),
        Message("user", "skip"),
    ],
    "repeats": [Message("user", "user user"), Message("assistant", "user"), Message("user", "user")],
}


def model(template: str, name: str = "m") -> PromptModel:
    return PromptModel(name=name, digest="", chat_template=template, bos_token="<s>", eos_token="</s>")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def step() -> AsyncIterator[ChatTemplate]:
    """One for all tests here: its worker is a process."""
    pool = TemplateRunnerPool(TemplateLimits(cpu_s=10.0))
    await pool.start()
    yield ChatTemplate(StepServices(templates=pool, wall_time_s=time.time))
    await pool.close()


def reference(template: str, messages: Sequence[Message]) -> str:
    """What Hugging Face's own code makes of it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE()), bos_token="<s>", eos_token="</s>")
    chat = [{"role": message.role, "content": message.content} for message in messages]
    rendered = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert isinstance(rendered, str)
    return rendered


@pytest.mark.parametrize("template", ["smollm2", "headers", "thinking", "generation", "alternating"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
async def test_prompt_equals_that_of_transformers(
    step: ChatTemplate, templates: dict[str, str], template: str, messages: list[Message]
) -> None:
    source = templates[template]
    if template == "alternating" and messages[0].role == "system":
        pytest.skip("this template refuses system messages")

    assert await step.render(model(source), messages) == reference(source, messages)


async def test_smollm2_gets_its_default_system_prompt(step: ChatTemplate, templates: dict[str, str]) -> None:
    prompt = await step.render(model(templates["smollm2"]), [Message("user", "Hi")])

    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", ["smollm2", "headers", "thinking", "generation", "alternating"])
@pytest.mark.parametrize("messages", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
async def test_segments_joined_are_the_prompt(
    step: ChatTemplate, templates: dict[str, str], template: str, messages: list[Message]
) -> None:
    if template == "alternating" and messages[0].role == "system":
        pytest.skip("this template refuses system messages")
    subject = model(templates[template])

    segments = await step.render_segments(subject, messages)

    assert "".join(segment.text for segment in segments) == await step.render(subject, messages)


async def test_contents_are_explainable_and_what_the_template_adds_is_not(
    step: ChatTemplate, templates: dict[str, str]
) -> None:
    messages = [Message("user", "user Hi"), Message("assistant", "user"), Message("user", " Hi ")]

    segments = await step.render_segments(model(templates["smollm2"]), messages)

    assert [segment.text for segment in segments if segment.explainable] == ["user Hi", "user", "Hi"]
    assert segments[0] == Segment(
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n",
        explainable=False,
    )


async def test_a_content_that_the_template_looks_into_is_found_in_the_others_shadow(
    step: ChatTemplate, templates: dict[str, str]
) -> None:
    messages = [Message("user", "/run now"), Message("assistant", "done"), Message("user", "thanks")]

    segments = await step.render_segments(model(templates["thinking"]), messages)

    # The first content starts with what the template tests for: marks would change its rendering, so it is left out.
    assert [segment.text for segment in segments if segment.explainable] == ["done", "thanks"]


async def test_an_escaped_content_is_explainable_as_it_is_rendered(
    step: ChatTemplate, templates: dict[str, str]
) -> None:
    subject = model(templates["thinking"])

    segments = await step.render_segments(subject, [Message("user", "x"), Message("observer", 'say "hi"')])

    assert [segment.text for segment in segments if segment.explainable] == ["x", 'say \\"hi\\"']


async def test_private_use_characters_of_the_user_are_no_marks(step: ChatTemplate, templates: dict[str, str]) -> None:
    content = "\U000f0000 and \U000f1001"

    segments = await step.render_segments(model(templates["smollm2"]), [Message("user", content)])

    assert [segment.text for segment in segments if segment.explainable] == [content]


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "messages is empty"),
        ([Message("user", "a"), Message("wizard", "b")], r"messages\[1\]\.role is 'wizard', which .* does not know"),
        ([Message("", "a")], r"messages\[0\]\.role is empty"),
        ([Message("User", "a")], r"messages\[0\]\.role is 'User'"),
        ([Message("user", "a")] * (MAX_MESSAGES + 1), "2049 messages; at most 2048"),
        ([Message("user", "x" * 4_000_001)], "messages hold 4000001 characters"),
    ],
)
async def test_wrong_messages_are_named(
    step: ChatTemplate, templates: dict[str, str], messages: list[Message], sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await step.render(model(templates["smollm2"]), messages)


async def test_a_model_without_a_template_takes_no_messages(step: ChatTemplate) -> None:
    with pytest.raises(InvalidInput, match="model 'base' has no chat template"):
        await step.render(model("", name="base"), [Message("user", "a")])


async def test_a_template_that_refuses_says_why(step: ChatTemplate, templates: dict[str, str]) -> None:
    messages = [Message("user", "a"), Message("user", "b")]

    with pytest.raises(TemplateRefusal, match="roles must alternate"):
        await step.render(model(templates["alternating"]), messages)


async def test_roles_beyond_the_common_ones_are_those_that_the_template_spells_out(
    step: ChatTemplate, templates: dict[str, str]
) -> None:
    messages = [Message("user", "x"), Message("observer", "y")]

    assert "<observed>" in await step.render(model(templates["thinking"]), messages)
    with pytest.raises(InvalidInput, match=r"messages\[1\]\.role is 'observer'"):
        await step.render(model(templates["smollm2"]), messages)
