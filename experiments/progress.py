"""A live progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Bar:
    """Show ELBO, steps a second and time left on standard error while a fit runs.

    Args:
        title: what is being fitted.
        steps: how many steps it may take.
        show: ``None``: only where standard error is a terminal.
    """

    def __init__(self, title: str, steps: int, show: bool | None = None):
        self.show = sys.stderr.isatty() if show is None else show
        self.title, self.steps = title, steps
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if self.show:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
                TextColumn("ELBO {task.fields[elbo]}"), TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self.title, total=self.steps, elbo="", speed="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def step(self, step: int, elbo: float) -> None:
        """Move to ``step``."""
        if self._progress is not None:
            speed = self._progress.tasks[0].speed
            self._progress.update(
                self._task, completed=step, elbo=f"{elbo:.2f}", speed=f"{speed:.0f} steps/s" if speed else "")
