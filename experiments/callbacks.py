"""Watching a fit while it runs: its history, its clock, and whoever wants to be told."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import ZooWarning
from zoo.model import Model

if TYPE_CHECKING:
    from experiments.fitting import Fit


@dataclass(frozen=True)
class Moment:
    """Where a fit is.

    Attributes:
        model, guide: with the parameters of this step.
        x: the data that is fitted.
        method: ``em``, ``fixed_draws`` or ``svi``.
        limit: how many steps it may take.
        step: steps taken.
        elbo: what the optimiser saw, in nats, summed over units; ``None`` before the first step.
        seconds: since the start, callbacks left out.
    """

    model: Model
    guide: BaseGuide
    x: Data
    method: str
    limit: int
    step: int = 0
    elbo: float | None = None
    seconds: float = 0.0


class Callback:
    """What a fit tells while it runs. A subclass overrides what it wants to hear.

    What a callback draws does not move the fit's random numbers, and its time is not counted as the fit's. One that raises
    is told no more, with a warning: it can't lose the run.

    >>> import experiments, zoo
    >>> class Evidence(experiments.Callback):
    ...     def __init__(self):
    ...         self.values = []
    ...     def on_step(self, now):
    ...         self.values.append(float(now.model.log_evidence(now.x).sum().detach()))
    >>> x, watch = zoo.dataset("faithful").x, Evidence()
    >>> done = experiments.fit(zoo.build("gmm", x), "exact", x, callbacks=[watch])
    >>> len(watch.values) == done.steps
    True
    """

    def on_start(self, now: Moment) -> None:
        """Before the first step."""

    def on_step(self, now: Moment) -> None:
        """After each step."""

    def on_end(self, fit: Fit | None) -> None:
        """When the fit is done; ``None`` where it failed."""


class Watch:
    """Keeps a fit's history and time, and tells its callbacks, as a context around the fit."""

    def __init__(self, start: Moment, callbacks: Sequence[Callback]):
        self.start, self.callbacks = start, list(callbacks)
        self.history: list[tuple[int, float, float]] = []
        self._paused = 0.0
        self._begun = time.perf_counter()

    def __enter__(self) -> Watch:
        self._tell(lambda callback: callback.on_start(self.start))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._tell(lambda callback: callback.on_end(None))

    @property
    def seconds(self) -> float:
        """Wall time since the start, callbacks left out."""
        return time.perf_counter() - self._begun - self._paused

    def step(self, step: int, elbo: float) -> None:
        """Record a step and tell of it."""
        now = replace(self.start, step=step, elbo=elbo, seconds=self.seconds)
        self.history.append((step, elbo, now.seconds))
        self._tell(lambda callback: callback.on_step(now))

    def end(self, fit: Fit) -> Fit:
        """Tell that the fit is done, and return it."""
        self._tell(lambda callback: callback.on_end(fit))
        return fit

    def _tell(self, tell: Callable[[Callback], None]) -> None:
        if not self.callbacks:
            return
        begun = time.perf_counter()
        failed: list[tuple[Callback, Exception]] = []
        with torch.random.fork_rng(devices=[]):
            for callback in self.callbacks:
                try:
                    tell(callback)
                except Exception as error:  # a plot that fails must not cost an hour of training
                    failed.append((callback, error))
        self.callbacks = [c for c in self.callbacks if all(c is not bad for bad, _ in failed)]
        self._paused += time.perf_counter() - begun
        for callback, problem in failed:
            warnings.warn(ZooWarning(
                f"callback {type(callback).__name__} raised {type(problem).__name__}: {problem}; the fit goes on without it"),
                stacklevel=4)
