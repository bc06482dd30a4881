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
            stage, total = str(record.get("stage", "load")), _count(record, "total")
            return ModelProgress(model, stage, _count(record, "done") or 0, total)
        case "model_failed":
            return ModelFailed(model, _reason(record))
        case _:
            return None


def readable(line: bytes) -> str:
    """A log line as a person reads it in one line of a terminal: the event and the error, or the text itself."""
    record = _object(line)
    if "event" not in record:
        return line.decode(errors="replace").strip()[:_MAX_SHOWN]
    details = (str(record[key]) for key in ("error", "reason", "message") if key in record)
    return ": ".join((str(record["event"]), *details))[:_MAX_SHOWN]


def _reason(record: dict[str, Any]) -> str:
    """The sentence of the error; of an unforeseen exception, the last line of its stack."""
    lines = str(record.get("error") or record.get("exception") or "").strip().splitlines()
    return lines[-1] if lines else "no reason given"


def _object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _count(record: dict[str, Any], key: str) -> int | None:
    value = record.get(key)
    return value if isinstance(value, int) else None
