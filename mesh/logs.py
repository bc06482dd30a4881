"""Structured logs: one event a line, with the id of the request that it belongs to. The work is structlog's.

Events have names (`model_loaded`) and fields, not sentences. Prompts and secrets do not belong in them.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from mesh import context

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What `configure` takes, for whoever starts a process of its own: it is to log as its parent does."""

    level: str = "info"
    format: str = "json"


def configure(service: str, level: str = "info", log_format: str = "json", stream: TextIO | None = None) -> None:
    """Send all log events of this process to `stream` (stdout), each with the service's name."""
    stream = stream or sys.stdout
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            add_service,
            _add_request,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # A line in one write: a process and its children share a stream, and printing may write the newline after it.
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    # Libraries log through the standard module: only what a person must read, on the same stream.
    logging.basicConfig(stream=stream, level=logging.WARNING, format="%(message)s", force=True)


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose events bear the field `module`."""
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def _add_request(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    request = context.current()
    if request is not None:
        event.setdefault("request_id", request.request_id)
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = f"{span.trace_id:032x}"
    return event
