"""Whatever JSON a client sends becomes a request or InvalidInput: never another error, which would be a 500."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.rest.openai_messages import Conversation
from gateway.rest.openai_requests import ChatCompletionRequest, CompletionRequest, parse_request
from gateway.rest.sampling import sampling_from_json
from gateway.rest.v1_instances import tensors_of
from gateway.rest.v2 import repository_parameters
from gateway.rest.v2_infer import read_request
from gateway.rest.validation import validated
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import DATATYPES

METADATA = oip.ModelMetadataResponse(
    name="m", inputs=[{"name": "x", "datatype": "INT8"}, {"name": "y", "datatype": "BYTES"}]
)


def read_infer(body: bytes, json_length: int | None = None) -> None:
    head = oip.ModelInferRequest(model_name="m")
    read_request(head, body, None if json_length is None else str(json_length), non_finite=False)


READERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "v2 infer": lambda body: read_infer(orjson.dumps(body)),
    "v2 load": repository_parameters,
    "chat": lambda body: parse_request(ChatCompletionRequest, {"model": "m", **body}).to_generate(),
    "text": lambda body: parse_request(CompletionRequest, {"model": "m", **body}).to_generate(),
    "messages": lambda body: validated(Conversation, body).to_messages(),
    "sampling": lambda body: sampling_from_json(body, "instances[0]"),
    "v1 rows": lambda body: tensors_of(body, METADATA),
}

# The names that the readers know, so that random bodies get past the first check.
_WORDS = """inputs outputs id parameters name datatype shape data messages role content type text prompt model n stop
    seed temperature top_p top_k logprobs stream stream_options max_tokens instances x y tools response_format
    n echo prompt_logprobs logit_bias bad_words min_tokens tool_choice tool_calls tool_call_id function arguments
    parameters json_schema schema regex choices json_object grammar structured_outputs guided_json guided_choice json
    choice description strict binary_data_size binary_data binary_data_output b64 config file:1"""
_NAMES = st.sampled_from(_WORDS.split())
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["user", "text", "assistant", "tool", "function", "required", "json_schema", "{}", *DATATYPES])
)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES | st.text(max_size=4), inner, max_size=6),
    max_leaves=30,
)
_BODIES = st.dictionaries(_NAMES, _JSON, max_size=6)


@pytest.mark.parametrize("reader", READERS)
@given(_BODIES)
@settings(max_examples=300, deadline=None)
def test_any_body_is_a_request_or_invalid(reader: str, body: dict[str, Any]) -> None:
    try:
        # What comes out of the parser: no NaN, and no whole number beyond 64 bits.
        parsed = orjson.loads(orjson.dumps(body))
    except TypeError:
        return

    with suppress(InvalidInput):
        READERS[reader](parsed)


@given(_BODIES, st.binary(max_size=40), st.integers(-1, 400))
@settings(max_examples=300, deadline=None)
def test_any_body_with_bytes_behind_it_is_a_request_or_invalid(body: dict[str, Any], behind: bytes, wrong: int) -> None:
    try:
        text = orjson.dumps(body)
    except TypeError:
        return

    for json_length in (len(text), wrong):
        with suppress(InvalidInput):
            read_infer(text + behind, json_length)


@given(
    st.sampled_from(sorted(DATATYPES)),
    st.lists(st.integers(-2, 2**63), max_size=4),
    st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=4), max_leaves=20),
)
@settings(max_examples=1000, deadline=None)
def test_any_tensor_is_read_or_invalid(datatype: str, shape: list[int], data: Any) -> None:
    try:
        parsed = orjson.loads(orjson.dumps({"name": "x", "datatype": datatype, "shape": shape, "data": data}))
    except TypeError:
        return

    with suppress(InvalidInput):
        read_infer(orjson.dumps({"inputs": [parsed]}))
