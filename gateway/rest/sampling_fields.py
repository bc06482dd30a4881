"""The sampling parameters that OpenAI's bodies and the mesh's own JSON have in common, with their types and limits.

Each front adds what it writes in a way of its own: OpenAI's seeds may be negative, vLLM's top_k may be -1. Ranges are
those of the contract (protos/mesh/v1/language_model.proto); what hangs on the model, as ids of its vocabulary, is the
predictor's to check.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.rest.bodies import Json
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

MAX_INT32 = 2**31 - 1
MAX_STOPS = 16
MAX_BAD_WORDS = 64
MAX_LOGIT_BIASES = 1024
MAX_LOGIT_BIAS = 100


def _as_list(value: Json) -> Json:
    return [value] if isinstance(value, str) else value


def _biases(value: Json) -> Json:
    """Token id → bias; JSON writes the ids as strings."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_LOGIT_BIASES:
        counts = {"count": len(value), "limit": MAX_LOGIT_BIASES}
        raise PydanticCustomError("logit_bias", "it has {count} entries; at most {limit} are taken", counts)
    return {_token_id(key): _bias(key, bias) for key, bias in value.items()}


def _token_id(key: str) -> int:
    # The length first: the digits of a number may be very many.
    if not (len(key) <= 10 and key.isascii() and key.isdigit() and int(key) <= MAX_INT32):
        raise PydanticCustomError("logit_bias", "its keys must be token ids, 0 to {limit}", {"limit": MAX_INT32})
    return int(key)


def _bias(key: str, bias: Json) -> float:
    if type(bias) not in (int, float) or not -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS:
        where = {"key": key, "limit": MAX_LOGIT_BIAS}
        raise PydanticCustomError("logit_bias", "that of token {key} must be a number from -{limit} to {limit}", where)
    return float(bias)


# What clients may write, before it is brought into one form; for the OpenAPI document.
_BIASES: dict[str, Json] = {
    "type": "object",
    "maxProperties": MAX_LOGIT_BIASES,
    "propertyNames": {"pattern": "^[0-9]{1,10}$"},
    "additionalProperties": {"type": "number", "minimum": -MAX_LOGIT_BIAS, "maximum": MAX_LOGIT_BIAS},
}
_STOPS: dict[str, Json] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": MAX_STOPS}]
}

TokenId = Annotated[int, Field(ge=0, le=MAX_INT32)]


class SamplingFields(BaseModel):
    """Not set means the default of the contract."""

    model_config = ConfigDict(strict=True, frozen=True)

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[int, float], BeforeValidator(_biases), WithJsonSchema(_BIASES)] | None = None
    bad_words: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_BAD_WORDS)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    stop: (
        Annotated[list[str], Field(max_length=MAX_STOPS), BeforeValidator(_as_list), WithJsonSchema(_STOPS)] | None
    ) = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS)] | None = None
    ignore_eos: bool | None = None

    def to_sampling(self, max_tokens: int | None) -> lm.SamplingParameters:
        """The parameters; what the client did not set stays unset. Raises InvalidInput."""
        if self.min_tokens and max_tokens is not None and self.min_tokens > max_tokens:
            raise InvalidInput(f"min_tokens is {self.min_tokens}; max_tokens is only {max_tokens}", field="min_tokens")
        return lm.SamplingParameters(
            temperature=self.temperature,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias or {},
            bad_words=self.bad_words or (),
            min_tokens=self.min_tokens or 0,
            stop=self.stop or (),
            stop_token_ids=self.stop_token_ids or (),
            ignore_eos=bool(self.ignore_eos),
            max_tokens=max_tokens,
        )
