"""Sampling parameters in the names that the mesh, Triton, KServe and vLLM share, from JSON.

Types and ranges are checked by the same rules as OpenAI's requests; names that are not known are refused, since here a
misspelt one would otherwise be lost without a word.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from gateway.rest.bodies import Json
from gateway.rest.openai_requests import MAX_STOPS
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm


def _as_list(value: Json) -> Json:
    return [value] if isinstance(value, str) else value


class _Sampling(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    stop: Annotated[list[str], Field(max_length=MAX_STOPS), BeforeValidator(_as_list)] | None = None
    ignore_eos: bool | None = None


def sampling_from_json(values: dict[str, Json], where: str) -> lm.SamplingParameters:
    """The parameters in `values`; `where` says in an error what they belong to. Raises InvalidInput."""
    try:
        given = _Sampling.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(_Sampling.model_fields))
            raise InvalidInput(f"{where} has no parameter {name[:64]!a}; known are: {known}", field=name) from None
        raise InvalidInput(f"'{name}' is wrong: {first['msg'][0].lower()}{first['msg'][1:]}", field=name) from None
    return lm.SamplingParameters(**given.model_dump(exclude_none=True))
