"""A live display of fits and their evaluation on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from experiments.fits.callbacks import Callback, Moment
from experiments.runtime.inert import inert

if TYPE_CHECKING:
    from experiments.fits.result import Fit
    from experiments.runtime.budget import Budget

#: What a user has not asked for by its name, and what it is called in the display.
NAMES = {"theta": "θ", "from the contained": "once more, from the contained fit"}
PREFIXES = {"best free ": "split of ", "contained ": "start: ", "theta of ": "θ of "}


def bars(show: bool | Callback | None) -> list[Callback]:
    """Return the display to show, if any: ``None`` shows one only where standard error is a terminal."""
    if isinstance(show, Callback):
        return [show]
    return [Display()] if _asked(show) else []


@contextmanager
def display(show: bool | None) -> Iterator[Display | None]:
    """Show one display over all fits and evaluations of the block; give ``None`` where none is to be shown."""
    if not _asked(show):
        yield None
        return
    shown = Display(own=False)
    try:
        yield shown
    finally:
        shown.close()


def _asked(show: bool | None) -> bool:
    return sys.stderr.isatty() if show is None else show


class Display(Callback):
    """Shows a line for each fit that runs, and one for the evaluation, on standard error.

    A fit's line has what is maximised, steps a second and the time left; the evaluation's has the share of its budget that is
    spent. One that has its ``own`` fit ends with it.
    """

    def __init__(self, own: bool = True):
        self._own = own
        self._progress: Any = None
        self._tasks: list[Any] = []

    def on_start(self, now: Moment) -> None:
        self._add(_called(now), now.limit, what=now.objective)

    def on_step(self, now: Moment) -> None:
        if not self._tasks:
            return
        speed = next(task.speed for task in self._progress.tasks if task.id == self._tasks[-1])
        self._progress.update(
            self._tasks[-1], completed=now.step, value=f"{now.bound:.2f}", speed=f"{speed:.0f} steps/s" if speed else "")

    def on_end(self, fit: Fit | None) -> None:
        if self._tasks:
            self._progress.remove_task(self._tasks.pop())
        if self._own:
            self.close()

    @contextmanager
    def evaluating(self, budget: Budget) -> Iterator[None]:
        """Show what is spent of the budget while the block runs."""
        total = budget.limit if 0 < budget.limit < float("inf") else None
        self._add("evaluation", total, what="evaluations of its budget", budget=budget)
        try:
            yield
        finally:
            if self._progress is not None:
                self._progress.remove_task(self._tasks.pop())

    def close(self) -> None:
        """End the display."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._tasks = None, []

    def _add(self, text: str, total: float | None, what: str, budget: Budget | None = None) -> None:
        if self._progress is None:
            self._progress = _progress()
            self._progress.start()
        self._tasks.append(self._progress.add_task(inert(text), total=total, what=what, value="", speed="", budget=budget))


def _called(now: Moment) -> str:
    """Return what a fit is called by those who asked for it."""
    name = NAMES.get(now.name, now.name or now.guide.text)
    for prefix, words in PREFIXES.items():
        name = words + name.removeprefix(prefix) if name.startswith(prefix) else name
    return f"{now.model.label} · {name}"


def _progress() -> Any:
    """Return rich's display, which looks at the budget of an evaluation each time that it is drawn."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    class Live(Progress):
        def get_renderables(self) -> Any:
            for task in self.tasks:
                if task.fields["budget"] is not None:
                    self.update(task.id, completed=round(task.fields["budget"].spent))
            return super().get_renderables()

    return Live(
        TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn(),
        TextColumn("{task.fields[what]} {task.fields[value]}", markup=False), TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(), console=Console(stderr=True), transient=True)
