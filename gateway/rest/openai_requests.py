"""What OpenAI's clients send: checked once, here, and turned into one GenerateRequest per prompt.

Ranges are the API's own; where vLLM has a field that OpenAI has not, it is vLLM's. What is known and not served is
refused by name (openai_not_served.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field

from gateway.rest import openai_not_served
from gateway.rest.bodies import Json
from gateway.rest.openai_guides import GuideFields
from gateway.rest.openai_messages import Conversation
from gateway.rest.openai_tools import ToolFields
from gateway.rest.sampling_fields import MAX_INT32, SamplingFields, TokenId
from gateway.rest.validation import Strict, validated
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

MAX_CHOICES = 128
MAX_LOGPROBS = 20
DEFAULT_COMPLETION_TOKENS = 16

NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What the answer to a request shall hold.

    num_choices: to a prompt. logprobs, prompt_logprobs: how many of the likeliest tokens at each position; None for no
    log-probabilities. echo: the prompt stands before the text. one_call: only the first tool call is told.
    """

    num_choices: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    one_call: bool = False
    wants_usage: bool = False

    @property
    def entries_per_prompt_token(self) -> int:
        """How many log-probabilities a choice tells of each token of its prompt."""
        in_lists = 0 if self.logprobs is None or not self.echo else self.logprobs + 1
        return in_lists + (0 if self.prompt_logprobs is None else self.prompt_logprobs + 1)


class StreamOptions(Strict):
    include_usage: bool | None = None


class _Sampled(SamplingFields, GuideFields):
    """What both kinds of completion share."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    not_served: ClassVar[openai_not_served.Table]

    model: Annotated[str, Field(max_length=256)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT32)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    prompt_logprobs: NumLogprobs | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=MAX_INT32)] | None = None
    cache_salt: Annotated[str, Field(max_length=256)] | None = None

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """True when a stream shall end with a chunk that has the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _request(self, sampling: lm.SamplingParameters) -> lm.GenerateRequest:
        return lm.GenerateRequest(
            model_name=self.model, sampling=sampling, priority=self.priority or 0, cache_salt=self.cache_salt or ""
        )

    def _sampling(
        self, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None
    ) -> lm.SamplingParameters:
        """The parameters; what the client did not set stays unset. Raises InvalidInput."""
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidInput("prompt_logprobs are not sent in a stream", field="prompt_logprobs")
        sampling = self.to_sampling(max_tokens)
        guide = self.guide()
        sampling.MergeFrom(
            lm.SamplingParameters(
                top_k=None if self.top_k is None else max(self.top_k, 0),  # -1 is vLLM's word for "all"
                seed=None if self.seed is None else self.seed & (2**64 - 1),
                n=self.n,
                logprobs=logprobs,
                prompt_logprobs=prompt_logprobs,
                guide=guide[1] if guide else None,
            )
        )
        return sampling

    def field_of(self, mesh_field: str) -> str:
        """What the client calls what an error of a later hop names in the mesh's words."""
        guide = self.guide() if _is_guide(mesh_field) else None
        return guide[0] if guide else mesh_field


_GUIDE_FIELDS = frozenset({"guide", *lm.Guide.DESCRIPTOR.fields_by_name})
_TOOL_FIELDS = {"messages.tools_json": "tools", "messages.tool_choice": "tool_choice"}


def _is_guide(mesh_field: str) -> bool:
    return mesh_field.removeprefix("sampling.").partition(".")[0].partition("[")[0] in _GUIDE_FIELDS


class ChatCompletionRequest(_Sampled, ToolFields, Conversation):
    not_served = openai_not_served.CHAT

    max_completion_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: NumLogprobs | None = None

    def form(self) -> AnswerForm:
        """What the answer shall hold."""
        return AnswerForm(
            num_choices=self.num_choices,
            logprobs=self._num_logprobs(),
            prompt_logprobs=self.prompt_logprobs,
            one_call=self.parallel_tool_calls is False,
            wants_usage=self.wants_usage,
        )

    def to_generate(self) -> list[lm.GenerateRequest]:
        """The one request. Raises InvalidInput."""
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidInput("top_logprobs needs logprobs to be true", field="top_logprobs")
        if self.needs_call and (guide := self.guide()) is not None:
            raise InvalidInput(
                f"'tool_choice' demands a tool call, '{guide[0]}' another output; give one of them", field="tool_choice"
            )
        name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        max_tokens = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        if max_tokens == 0 and self.prompt_logprobs is None:
            raise InvalidInput(f"{name} is 0; it must be at least 1, or go with prompt_logprobs", field=name)
        request = self._request(self._sampling(max_tokens, self._num_logprobs(), self.prompt_logprobs))
        request.messages.CopyFrom(self.to_messages())
        self.add_tools(request.messages)
        return [request]

    def field_of(self, mesh_field: str) -> str:
        """As the base has it; tools have names of their own in the mesh, and a demanded call is a guide there."""
        if (name := _TOOL_FIELDS.get(mesh_field)) is not None:
            return name
        field = super().field_of(mesh_field)
        if field == mesh_field and _is_guide(field) and self.tools:
            return "tools"
        return field.replace("tool_calls_json", "tool_calls")

    def _num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


_TokenIds = Annotated[list[TokenId], Field(min_length=1)]
_Prompt = (
    str
    | _TokenIds
    | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
    | Annotated[list[_TokenIds], Field(min_length=1, max_length=MAX_CHOICES)]
)


class CompletionRequest(_Sampled):
    not_served = openai_not_served.TEXT

    prompt: _Prompt
    logprobs: NumLogprobs | None = None
    echo: bool | None = None

    def form(self) -> AnswerForm:
        """What the answer shall hold."""
        return AnswerForm(
            num_choices=self.num_choices,
            logprobs=self.logprobs,
            prompt_logprobs=self.prompt_logprobs,
            echo=bool(self.echo),
            wants_usage=self.wants_usage,
        )

    def to_generate(self) -> list[lm.GenerateRequest]:
        """One request per prompt. Raises InvalidInput."""
        prompts = self._prompts()
        if len(prompts) * self.num_choices > MAX_CHOICES:
            raise InvalidInput(
                f"{len(prompts)} prompts with n {self.num_choices} make {len(prompts) * self.num_choices} choices; "
                f"the limit is {MAX_CHOICES}",
                field="n",
            )
        max_tokens = DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        if max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise InvalidInput(
                "max_tokens is 0; it must be at least 1, or go with echo or prompt_logprobs", field="max_tokens"
            )
        sampling = self._sampling(max_tokens, self.logprobs, self._num_prompt_logprobs(max_tokens))
        return [self._prompted(prompt, sampling) for prompt in prompts]

    def _num_prompt_logprobs(self, max_tokens: int) -> int | None:
        """What the mesh is asked for: enough for the echo's lists as well as for prompt_logprobs."""
        asked = [self.prompt_logprobs, self.logprobs if self.echo else None]
        if max_tokens == 0:
            asked.append(0)  # to generate nothing is for prompt_logprobs only
        return max((number for number in asked if number is not None), default=None)

    def _prompted(self, prompt: str | list[int], sampling: lm.SamplingParameters) -> lm.GenerateRequest:
        request = self._request(sampling)
        request.echo = bool(self.echo)
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.token_ids.ids.extend(prompt)
        return request

    def _prompts(self) -> list[str] | list[list[int]]:
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
        return [prompt] if is_one else prompt


R = TypeVar("R", bound=_Sampled)


def parse_request(kind: type[R], body: Mapping[str, Json]) -> R:
    """The request in `body`. Raises InvalidInput whose `field` is OpenAI's `param`."""
    openai_not_served.refuse(body, kind.not_served)
    try:
        return validated(kind, body)
    except InvalidInput as error:
        is_prompt = error.field is not None and error.field.partition("[")[0] == "prompt"
        if is_prompt and "prompt" in body:
            # Of the four types that it may have each has a complaint of its own; this says it in one sentence.
            raise InvalidInput(
                f"'prompt' must be a string, a list of at most {MAX_CHOICES} strings, a list of token ids, or a list "
                f"of at most {MAX_CHOICES} such lists, and no list may be empty",
                field="prompt",
            ) from None
        raise
