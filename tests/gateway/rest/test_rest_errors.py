"""Every error in the form of its protocol, against golden bodies."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from gateway.rest.errors import ANTHROPIC, OPENAI, V1, V2, error_body, error_response, protocol_of
from mesh import errors
from mesh.errors import MeshError

GOLDEN = Path(__file__).parent.parent / "golden" / "errors.jsonl"

ERRORS: list[MeshError] = [
    errors.InvalidInput("'inputs' must be a list", field="inputs"),
    errors.PromptTooLong("prompt has 5120 tokens; model 'chat' takes 4096", field="messages"),
    errors.Unauthenticated("no key"),
    errors.PermissionDenied("not yours"),
    errors.NotFound("model 'iris' has no explainer"),
    errors.ModelNotFound("model 'x' is not deployed", field="model"),
    errors.Conflict("changed meanwhile"),
    errors.MessageTooLarge("too large"),
    errors.Overloaded("the queue is full", retry_after_s=2.5),
    errors.Internal("internal error"),
    errors.Unsupported("not served here"),
    errors.Unavailable("no ready predictor"),
    errors.ModelNotReady("not ready yet"),
    errors.DeadlineExceeded("too late"),
]


def test_bodies_are_the_golden_ones() -> None:
    """The file has an error a line; delete it to have it written anew, and read the difference."""
    lines = b""
    for error in ERRORS:
        for protocol in (V2, OPENAI, ANTHROPIC):
            response = error_response(protocol, error)
            seen = {
                "error": type(error).__name__,
                "protocol": protocol,
                "status": response.status_code,
                "retry_after": response.headers.get("retry-after"),
                "body": orjson.loads(bytes(response.body)),
            }
            lines += orjson.dumps(seen) + b"\n"
    if not GOLDEN.exists():
        GOLDEN.write_bytes(lines)

    assert lines.decode() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        ("/v1/chat/completions", OPENAI),
        ("/v1/models/iris", OPENAI),
        ("/v1/nowhere", OPENAI),
        ("/v1/messages", ANTHROPIC),
        ("/v1/messages/count_tokens", ANTHROPIC),
        ("/v1/messages_of_another", OPENAI),
        ("/tokenize", OPENAI),
        ("/v1/models/iris:predict", V1),
        ("/v1/models/iris:explain", V1),
        ("/v2/models/iris/infer", V2),
        ("/", V2),
    ],
)
def test_path_says_which_protocol_is_spoken(path: str, protocol: str) -> None:
    assert protocol_of(path) == protocol


def test_v1_has_the_plain_form() -> None:
    assert error_body(V1, errors.NotFound("gone")) == {"error": "gone"}
