"""What happens during `up` on a terminal: one line per service and a bar per model until the mesh is ready, then lines.

It draws what the events say and keeps no time of its own.
"""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from cli.up_lines import line_of
from deploy.local.events import (
    Event,
    MeshReady,
    ModelFailed,
    ModelProgress,
    ModelServing,
    Preparing,
    ServiceEnded,
    ServiceServing,
    ServiceStarted,
    ServiceStopping,
    StillWaiting,
)

_BAR_WIDTH = 30


class LiveReporter:
    """A context manager that is called with each event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._services: dict[str, RenderableType] = {}
        self._models: dict[str, ModelProgress | ModelServing] = {}
        self._note: RenderableType = Text()
        self._live = Live(console=console, refresh_per_second=10, transient=True, get_renderable=self._drawing)

    def __enter__(self) -> LiveReporter:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Preparing(what):
                self._note = Spinner("dots", f"{what} (once)")
            case ServiceStarted(service):
                self._note = Text()
                self._services[service] = Spinner("dots", "starting")
            case ServiceServing(service, address, seconds):
                self._services[service] = Text.assemble(("✓ ", "green"), f"{address}  ", (f"{seconds:.1f} s", "dim"))
            case ModelProgress() | ModelServing():
                self._models[event.model] = event
            case StillWaiting(awaited, seconds):
                # The rows above say how far each is, and are newer than the event.
                names = ", ".join(each.partition(" (")[0] for each in awaited)
                self._note = Text(f"{seconds:.0f} s, waiting for {names}", style="dim")
            case MeshReady():
                self._live.stop()
        self._print(event)

    def _print(self, event: Event) -> None:
        """What stays on the terminal: bad news always; after the start, all that `line_of` has words for."""
        if isinstance(event, ModelFailed):
            self._models.pop(event.model, None)
        is_news = isinstance(event, ServiceEnded | ModelFailed | MeshReady)
        line = line_of(event) if is_news or not self._live.is_started else None
        if isinstance(event, ServiceStopping):
            self._live.stop()
        if line is not None:
            style = "red" if isinstance(event, ServiceEnded | ModelFailed) else None
            self._console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def _drawing(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        # Copies: rich draws in a thread of its own.
        for service, state in list(self._services.items()):
            table.add_row(Text(service, style="bold"), state)
        for model, news in list(self._models.items()):
            table.add_row(Text(model, style="bold"), _model_drawing(news))
        return Group(table, self._note)


def _model_drawing(news: ModelProgress | ModelServing) -> RenderableType:
    if isinstance(news, ModelServing):
        return Text("✓ ready", style="green")
    bar = ProgressBar(total=news.total or None, completed=news.done, width=_BAR_WIDTH, pulse=not news.total)
    line = Table.grid(padding=(0, 1))
    line.add_row(bar, Text(news.words, style="dim"))
    return line
