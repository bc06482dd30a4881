"""What a request's span says of a generation: the GenAI attributes of OpenTelemetry's semantic conventions."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import trace

PROVIDER = "meshserve"


def annotate_request(operation: str, model: str) -> None:
    """operation: "chat" or "text_completion"."""
    span = trace.get_current_span()
    span.set_attribute("gen_ai.operation.name", operation)
    span.set_attribute("gen_ai.provider.name", PROVIDER)
    span.set_attribute("gen_ai.request.model", model)


def annotate_response(input_tokens: int, output_tokens: int, finish_reasons: Sequence[str]) -> None:
    """finish_reasons: of each output, in the words of the REST protocols."""
    span = trace.get_current_span()
    span.set_attribute("gen_ai.usage.input_tokens", input_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", output_tokens)
    span.set_attribute("gen_ai.response.finish_reasons", list(finish_reasons))
