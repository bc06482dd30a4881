"""Sampling parameters in the mesh's own names, from JSON: for V2's generate and V1's :predict.

The names are those of mesh.v1.SamplingParameters: temperature, top_k, top_p, min_p, seed, max_tokens, min_tokens, stop,
stop_token_ids, ignore_eos, repetition_penalty, frequency_penalty, presence_penalty, logit_bias (an object: token id →
bias) and bad_words. At most one of the names of mesh.v1.Guide says what the output must look like: json_schema (an
object, or its text), json_object (true), regex, grammar, or choices (a list of texts).

Here an answer has one output and no log-probabilities, so there is no n. Names that are not known are refused: a
misspelt one would otherwise be lost without a word.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError

from gateway.rest.bodies import Json
from gateway.rest.guides import Given, only_guide
from gateway.rest.sampling_fields import MAX_INT32, SamplingFields
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

_GUIDES = ("json_schema", "json_object", "regex", "grammar", "choices")


class _Sampling(SamplingFields):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    top_k: Annotated[int, Field(ge=0, le=MAX_INT32)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT32)] | None = None


def sampling_from_json(values: dict[str, Json], where: str) -> lm.SamplingParameters:
    """The parameters in `values`; `where` says in an error what they belong to. Raises InvalidInput."""
    plain = {name: value for name, value in values.items() if name not in _GUIDES}
    try:
        given = _Sampling.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted([*_Sampling.model_fields, *_GUIDES]))
            raise InvalidInput(f"{where} has no parameter {name[:64]!a}; known are: {known}", field=name) from None
        raise InvalidInput(f"'{name}' is wrong: {first['msg'][0].lower()}{first['msg'][1:]}", field=name) from None
    guide = only_guide(Given(name, name, values.get(name)) for name in _GUIDES)
    return _with_own(given.to_sampling(given.max_tokens), given, guide[1] if guide else None)


def _with_own(sampling: lm.SamplingParameters, given: _Sampling, guide: lm.Guide | None) -> lm.SamplingParameters:
    sampling.MergeFrom(lm.SamplingParameters(top_k=given.top_k, seed=given.seed, guide=guide))
    return sampling
