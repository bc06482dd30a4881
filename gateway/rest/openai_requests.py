"""What OpenAI's clients send: checked once, here, and turned into GenerateRequest.

Types are strict and ranges are the API's own. A field that would change the answer and is not served yet is refused by
name; fields that are not known here are ignored, as OpenAI's own servers do with what other SDKs add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.rest.bodies import Json
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

MAX_CHOICES = 128
MAX_STOPS = 16
DEFAULT_COMPLETION_TOKENS = 16

# Field → the values that ask for nothing; any other is refused.
_NOT_SERVED: dict[str, tuple[Json, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "prompt_logprobs": (0,),
    "audio": (),
    "prediction": (),
    "modalities": (["text"],),
    "web_search_options": (),
}

_ROLES = {"developer": "system"}


def _as_list(value: Json) -> Json:
    return [value] if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class StreamOptions(_Strict):
    include_usage: bool | None = None


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[TextPart]

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class Conversation(_Strict):
    messages: Annotated[list[Message], Field(min_length=1)]

    def to_messages(self) -> lm.ChatMessages:
        """The conversation for a model; OpenAI's "developer" is what templates call "system"."""
        return lm.ChatMessages(
            messages=[
                lm.ChatMessage(role=_ROLES.get(message.role, message.role), content=message.text)
                for message in self.messages
            ]
        )


class _Sampled(_Strict):
    """What both kinds of completion share."""

    model: Annotated[str, Field(max_length=256)]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: Annotated[list[str], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)] | None = None
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(max_length=MAX_STOPS)] | None = (
        None
    )
    ignore_eos: bool | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    user: str | None = None

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """True when a stream shall end with a chunk that has the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _sampling(self, index: int, max_tokens: int | None, logprobs: int | None) -> lm.SamplingParameters:
        """The parameters of choice `index`; what the client did not set stays unset."""
        return lm.SamplingParameters(
            temperature=self.temperature,
            top_k=None if self.top_k is None else max(self.top_k, 0),  # -1 is vLLM's word for "all"
            top_p=self.top_p,
            min_p=self.min_p,
            seed=None if self.seed is None else derived_seed(self.seed, index),
            max_tokens=max_tokens,
            stop=self.stop or (),
            stop_token_ids=self.stop_token_ids or (),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
        )


class ChatCompletionRequest(_Sampled, Conversation):
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def to_generate(self) -> list[lm.GenerateRequest]:
        """One request per choice."""
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidInput("top_logprobs needs logprobs to be true", field="top_logprobs")
        max_tokens = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        messages = self.to_messages()
        return [
            lm.GenerateRequest(
                model_name=self.model,
                messages=messages,
                sampling=self._sampling(index, max_tokens, logprobs),
                priority=self.priority or 0,
            )
            for index in range(self.num_choices)
        ]


_TokenIdList = Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)]
_Prompt = (
    str
    | _TokenIdList
    | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
    | Annotated[list[_TokenIdList], Field(min_length=1, max_length=MAX_CHOICES)]
)


class CompletionRequest(_Sampled):
    prompt: _Prompt
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def to_generate(self) -> list[lm.GenerateRequest]:
        """One request per choice, those of the first prompt first."""
        prompts = self._prompts()
        if len(prompts) * self.num_choices > MAX_CHOICES:
            raise InvalidInput(
                f"{len(prompts)} prompts with n {self.num_choices} make {len(prompts) * self.num_choices} choices; "
                f"the limit is {MAX_CHOICES}",
                field="n",
            )
        max_tokens = DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        requests = []
        for prompt in prompts:
            for index in range(self.num_choices):
                request = lm.GenerateRequest(
                    model_name=self.model,
                    sampling=self._sampling(index, max_tokens, self.logprobs),
                    priority=self.priority or 0,
                )
                if isinstance(prompt, str):
                    request.text = prompt
                else:
                    request.token_ids.ids.extend(prompt)
                requests.append(request)
        return requests

    def _prompts(self) -> list[str] | list[list[int]]:
        prompt: Any = self.prompt
        is_one = isinstance(prompt, str) or isinstance(prompt[0], int)
        return [prompt] if is_one else prompt


R = TypeVar("R", bound=_Strict)


def parse_request(kind: type[R], body: Mapping[str, Json]) -> R:
    """The request in `body`. Raises InvalidInput whose `field` is OpenAI's `param`."""
    for name, harmless in _NOT_SERVED.items():
        value = body.get(name)
        if value is not None and value not in harmless:
            raise InvalidInput(f"'{name}' is not served yet", field=name)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise _sentence(error) from None


def derived_seed(seed: int, index: int) -> int:
    """Seed of choice `index`: the first is the request's own; the others are far apart (SplitMix64's finalizer)."""
    mask = 2**64 - 1
    if index == 0:
        return seed & mask
    mixed = (seed + index * 0x9E3779B97F4A7C15) & mask
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
    return mixed ^ (mixed >> 31)


def _sentence(error: ValidationError) -> InvalidInput:
    """The first complaint, with the path of the field; never the value, which may be long or secret."""
    complaints = error.errors(include_url=False, include_input=False, include_context=False)
    # Of a union all members complain; that a part's type is unknown says more than that a list is no string.
    first = next((one for one in complaints if one["type"] == "literal_error"), complaints[0])
    if first["loc"][0] == "prompt" and first["type"] != "missing":
        return InvalidInput(
            f"'prompt' must be a string, a list of at most {MAX_CHOICES} strings, a list of token ids, or a list of "
            f"at most {MAX_CHOICES} such lists, and no list may be empty",
            field="prompt",
        )
    # The other parts of a location are the names that pydantic gives to the members of a union.
    path = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in first["loc"]
        if isinstance(part, int) or part in _FIELD_NAMES
    ).removeprefix(".")
    if first["type"] == "missing":
        return InvalidInput(f"'{path}' is required", field=path)
    if first["type"] == "literal_error":
        return InvalidInput(f"'{path}' is wrong: only parts of type 'text' are served yet", field=path)
    return InvalidInput(f"'{path}' is wrong: {first['msg'][0].lower()}{first['msg'][1:]}", field=path)


_FIELD_NAMES = frozenset(
    name
    for model in (ChatCompletionRequest, CompletionRequest, Message, TextPart, StreamOptions)
    for name in model.model_fields
)
