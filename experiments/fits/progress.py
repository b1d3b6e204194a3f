"""A live progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from experiments.fits.callbacks import Callback, Moment

if TYPE_CHECKING:
    from experiments.fits.result import Fit


def bars(show: bool | None) -> list[Callback]:
    """Return the bar to show, if any: ``None`` shows it only where standard error is a terminal."""
    return [Bar()] if (sys.stderr.isatty() if show is None else show) else []


class Bar(Callback):
    """Shows the ELBO, or what else is maximised, steps a second and time left on standard error while a fit runs."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None

    def on_start(self, now: Moment) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn(now.objective + " {task.fields[bound]}"), TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(), console=Console(stderr=True), transient=True)
        self._progress.start()
        self._task = self._progress.add_task(f"{now.model.label} · {now.guide.text}", total=now.limit, bound="", speed="")

    def on_step(self, now: Moment) -> None:
        speed = self._progress.tasks[0].speed
        self._progress.update(
            self._task, completed=now.step, bound=f"{now.bound:.2f}", speed=f"{speed:.0f} steps/s" if speed else "")

    def on_end(self, fit: Fit | None) -> None:
        if self._progress is not None:
            self._progress.stop()
