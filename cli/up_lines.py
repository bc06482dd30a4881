"""What happens during `up` as plain lines: for pipes and log files, and on a terminal once the mesh is ready."""

from __future__ import annotations

import typer

from cli.ready_message import ready_message
from deploy.local.events import (
    Event,
    MeshReady,
    ModelFailed,
    ModelProgress,
    ModelServing,
    Preparing,
    ServiceEnded,
    ServiceKilled,
    ServiceServing,
    ServiceSilent,
    ServiceStarted,
    ServiceStopping,
    StillWaiting,
    Warned,
)

_NUM_STEPS = 4


def line_of(event: Event) -> str | None:
    """The event in one line; None for what nobody needs to read."""
    match event:
        case Preparing(what):
            return f"{what} (once)"
        case ServiceServing(service, address, _, True):
            return f"{service} serves again at {address}"
        case ServiceServing(service, address, seconds):
            return f"{service} serves at {address} ({seconds:.1f} s)"
        case ServiceSilent(service):
            return f"{service} does not serve, though its process runs"
        case ServiceEnded(service, how, restart_in_s):
            return f"{service} {how}; it starts again in {restart_in_s:.1f} s"
        case ServiceKilled(service, seconds):
            return f"{service} did not stop within {seconds:g} s and was killed"
        case ModelServing(model):
            return f"model {model} is ready"
        case ModelFailed(model, reason):
            return f"model {model} cannot be served: {reason}"
        case StillWaiting(awaited, seconds):
            return f"not ready after {seconds:.0f} s, waiting for: {', '.join(awaited)}"
        case ServiceStopping(service):
            return f"stopping {service}"
        case Warned(text):
            return f"warning: {text}"
        case MeshReady(seconds, info):
            return ready_message(info, seconds)
        case ServiceStarted() | ModelProgress():
            return None


class LineReporter:
    """Prints each event as it comes; progress of a model at each quarter of a stage."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> LineReporter:
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.clear()

    def __call__(self, event: Event) -> None:
        line = self._progress_line(event) if isinstance(event, ModelProgress) else line_of(event)
        if line is not None:
            typer.echo(line)

    def _progress_line(self, progress: ModelProgress) -> str | None:
        # A stage of one part says nothing new at its end.
        total = progress.total if progress.total != 1 else None
        quarter = progress.done * _NUM_STEPS // total if total else 0
        if self._shown.get(progress.model) == (progress.stage, quarter):
            return None
        self._shown[progress.model] = (progress.stage, quarter)
        return f"model {progress.model}: {progress.words}"
