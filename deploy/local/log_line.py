"""What a service's log line says about its models: the few events that a person waits for. Other lines are None."""

from __future__ import annotations

import json
from typing import Any

from deploy.local.events import ModelFailed, ModelProgress

_MAX_SHOWN = 300


def model_event(line: bytes) -> ModelProgress | ModelFailed | None:
    """The news about a model in `line`, one JSON object with the fields `event` and `model`."""
    if b'"model_' not in line:
        return None
    record = _object(line)
    model = record.get("model")
    if not isinstance(model, str):
        return None
    match record.get("event"):
        case "model_progress":
            stage = str(record.get("stage", "load"))
            return ModelProgress(model, stage, _bytes(record, "done_bytes"), _bytes(record, "total_bytes"))
        case "model_failed":
            return ModelFailed(model, str(record.get("error") or record.get("reason") or "no reason given"))
        case _:
            return None


def readable(line: bytes) -> str:
    """A log line as a person reads it in one line of a terminal: the event and the error, or the text itself."""
    record = _object(line)
    if "event" not in record:
        return line.decode(errors="replace").strip()[:_MAX_SHOWN]
    details = (str(record[key]) for key in ("error", "reason", "message") if key in record)
    return ": ".join((str(record["event"]), *details))[:_MAX_SHOWN]


def _object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _bytes(record: dict[str, Any], key: str) -> int | None:
    value = record.get(key)
    return value if isinstance(value, int) else None
