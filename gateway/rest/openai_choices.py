"""What the outputs of one OpenAI request have said so far.

A prompt is one generation with n outputs, whose messages come in any order; choice i of prompt p is number p * n + i.
What belongs to the prompt (its echo, its log-probabilities, its length) comes once, with its first output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.generation import finish_reason_name
from gateway.rest.bodies import Json
from gateway.rest.openai_requests import AnswerForm
from mesh.errors import Internal, InvalidInput
from mesh.v1 import language_model_pb2 as lm

# Every choice repeats the log-probabilities of its prompt; so many are about 70 MB of JSON.
MAX_PROMPT_ENTRIES = 1_000_000


@dataclass(slots=True)
class Prompt:
    """What its choices share. is_told: all that a choice may have to say of the prompt is there."""

    digest: str = ""
    num_tokens: int = 0
    text: str = ""
    num_echoed: int = 0
    logprobs: list[lm.PositionLogprobs] = field(default_factory=list)
    has_started: bool = False
    has_ended: bool = False

    def add(self, message: lm.GenerateResponse, *, is_first_output: bool) -> None:
        """Take in the next message of any output."""
        if message.HasField("start"):
            self.has_started = True
            self.digest = message.start.model_digest
            self.num_tokens = message.start.prompt_tokens
            self.text = message.start.prompt_text
            self.num_echoed = len(message.start.prompt_token_ids)
        self.logprobs.extend(message.prompt_logprobs)
        # All of the prompt's come before the first output's own first token.
        if is_first_output and (message.token_ids or message.finish_reason):
            self.has_ended = True

    def is_told(self, form: AnswerForm) -> bool:
        """True when a choice can begin with what `form` wants of the prompt."""
        if not (form.echo and form.logprobs is not None):
            return self.has_started
        return self.has_ended or (self.has_started and len(self.logprobs) >= self.num_echoed - 1)


@dataclass(slots=True)
class Choice:
    """One output. What it holds is for the whole answer, or for the next chunk of a stream: see forget_sent.

    text_offset: of the next token in the text, for `logprobs.text_offset`. is_open: its first chunk is out.
    """

    index: int
    form: AnswerForm = field(default_factory=AnswerForm)
    prompt: Prompt = field(default_factory=Prompt)
    texts: list[str] = field(default_factory=list)
    logprobs: list[lm.PositionLogprobs] = field(default_factory=list)
    tool_calls: list[lm.ToolCallDelta] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: str | None = None
    usage: lm.Usage = field(default_factory=lm.Usage)
    text_offset: int = 0
    is_open: bool = False

    def add(self, message: lm.GenerateResponse) -> None:
        """Take in the next message of this output."""
        if message.text:
            self.texts.append(message.text)
        if self.form.logprobs is not None:
            # End-of-text is a token, and no part of the text. Beside an echo every token has its place: what reads
            # such lists cuts them by counts of tokens.
            self.logprobs.extend(one for one in message.logprobs if self.form.echo or not _is_special(one))
        self.tool_calls.extend(call for call in message.tool_calls if not (self.form.one_call and call.index > 0))
        if message.finish_reason:
            self.finish_reason = finish_reason_name(message.finish_reason)
            self.stop_reason = message.matched_stop or None
            self.usage = message.usage

    def forget_sent(self) -> None:
        """Drop what a chunk has carried to the client."""
        self.texts.clear()
        self.logprobs.clear()
        self.tool_calls.clear()

    @property
    def text(self) -> str:
        return "".join(self.texts)


class Choices:
    """All choices of a request; `form` says what they hold."""

    def __init__(self, num_prompts: int, form: AnswerForm) -> None:
        self.form = form
        self._prompts = [Prompt() for _ in range(num_prompts)]
        self.all = [
            Choice(number * form.num_choices + index, form, prompt)
            for number, prompt in enumerate(self._prompts)
            for index in range(form.num_choices)
        ]

    def add(self, number: int, message: lm.GenerateResponse) -> Sequence[Choice]:
        """Take in a message of prompt `number`. Returns the choices that may have something new to tell.

        A choice tells nothing before its prompt is told. Raises Internal for an output that nobody asked for, and
        InvalidInput when the choices would repeat too many log-probabilities of their prompts.
        """
        n = self.form.num_choices
        if not 0 <= message.index < n:
            raise Internal(f"the model answered with output {message.index}; {n} were asked for")
        prompt, choice = self._prompts[number], self.all[number * n + message.index]
        was_told = prompt.is_told(self.form)
        prompt.add(message, is_first_output=message.index == 0)
        if message.HasField("start"):
            self._check_size()
        choice.add(message)
        if not prompt.is_told(self.form):
            return ()
        return (choice,) if was_told else self.all[number * n : (number + 1) * n]

    def _check_size(self) -> None:
        per_token = self.form.entries_per_prompt_token
        num_tokens = sum(prompt.num_tokens for prompt in self._prompts)
        if num_tokens * per_token * self.form.num_choices > MAX_PROMPT_ENTRIES:
            raise InvalidInput(
                f"{num_tokens} prompt tokens with {per_token} log-probabilities each, for {self.form.num_choices} "
                f"choices, are above the limit of {MAX_PROMPT_ENTRIES}; ask for fewer",
                field="logprobs" if self.form.prompt_logprobs is None else "prompt_logprobs",
            )

    def check_ended(self) -> None:
        """Raise Internal when an output has no end: half an answer must not look like a whole one."""
        for choice in self.all:
            if choice.finish_reason is None:
                raise Internal(f"the model ended its answer before choice {choice.index} was complete")

    def usage(self) -> dict[str, Json]:
        """Tokens over all choices; a prompt counts once."""
        prompts = self.all[:: self.form.num_choices]
        prompt_tokens = sum(choice.usage.prompt_tokens or choice.prompt.num_tokens for choice in prompts)
        output_tokens = sum(choice.usage.output_tokens for choice in self.all)
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
            "prompt_tokens_details": {"cached_tokens": sum(choice.usage.cached_tokens for choice in prompts)},
        }


def _is_special(position: lm.PositionLogprobs) -> bool:
    return not position.chosen.text and not position.chosen.token_bytes
