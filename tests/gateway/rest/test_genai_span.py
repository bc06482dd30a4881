"""The GenAI attributes of a request's span."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from gateway.rest.genai_span import annotate_request, annotate_response


def test_request_and_response_are_told_by_the_conventions_names() -> None:
    span = TracerProvider().get_tracer("test").start_span("POST /v1/messages")
    with trace.use_span(span):
        annotate_request("chat", "smollm2")
        annotate_response(5, 3, ["stop"])

    assert isinstance(span, ReadableSpan)
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "meshserve",
        "gen_ai.request.model": "smollm2",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.response.finish_reasons": ("stop",),
    }
