"""Callbacks of a running fit, and the watch that keeps its history, its wall time and its checkpoints."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch

from experiments.fits.journal import Journal, Snapshot
from experiments.fits.state import State, amount, fitting
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.errors import Interrupted, ZooWarning
from zoo.model import Model
from zoo.program.run import generators, set_generators
from zoo.program.tally import Tally

if TYPE_CHECKING:
    from experiments.fits.result import Fit


@dataclass(frozen=True)
class Moment:
    """A moment of a running fit: the step it is at, and the numbers of that step.

    Attributes:
        model, guide: with the parameters of this step.
        x: the data that is fitted.
        method: a key of :data:`experiments.METHODS`.
        limit: how many steps it may take.
        units: that are fitted, over which ``bound`` and the like are summed.
        name: of the fit, where it is one of several: ``theta``, a guide's text, ``seed 0``.
        step: steps taken.
        bound: what the optimiser saw of what it maximises, in nats, summed over units; ``None`` before the first step.
        seconds: since the start, callbacks and checkpoints left out.
        reconstruction, kl: E_q[log p(x | z)] and KL(q ‖ prior), in nats, summed over units.
        gradient_norm: of the ELBO's gradient, before it was clipped; of normals that fixed_draws climbs each for itself, in the
            coordinates that it climbs in.
        learning_rate: of the step.
        saving: whether a checkpoint follows on this step.
        checkpoint: the file, of ``on_checkpoint``.
        objective: what the bound is called: ``ELBO``, ``IWAE-8 bound``, ``Rényi(0.5) bound``.

    What a method does not have is ``None``: EM has no gradient, and only svi has a learning rate.
    """

    model: Model
    guide: BaseGuide
    x: Data
    method: str
    limit: int
    units: int = 1
    name: str = ""
    step: int = 0
    bound: float | None = None
    seconds: float = 0.0
    reconstruction: float | None = None
    kl: float | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    saving: bool = False
    checkpoint: Path | None = None
    objective: str = "ELBO"

    @property
    def elbo(self) -> float | None:
        """The bound, where it is the ELBO; ``None`` where it is another."""
        return self.bound if self.objective == "ELBO" else None


class Callback:
    """A listener to a running fit. A subclass overrides the events that it wants to hear.

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
        """Hear that the fit begins; ``now.step`` is the step of the checkpoint that it goes on from, or 0."""

    def on_step(self, now: Moment) -> None:
        """Hear that a step was taken."""

    def on_checkpoint(self, now: Moment) -> None:
        """Hear that a checkpoint was written to ``now.checkpoint``."""

    def on_end(self, fit: Fit | None) -> None:
        """Hear that the fit ended; ``fit`` is ``None`` where it failed."""


class Watch:
    """The watch over one fit: it keeps the history, the wall time and the checkpoints, and calls the callbacks.

    Args:
        start: the fit, before its first step.
        callbacks: who is told.
        journal: where checkpoints go, if anywhere. One that holds a checkpoint makes the fit go on from there.
    """

    def __init__(self, start: Moment, callbacks: Sequence[Callback], journal: Journal | None = None):
        self.callbacks, self.journal = list(callbacks), journal
        self._saved = None if journal is None else journal.latest()
        self.history: list[tuple[int, float, float]] = []
        if journal is not None and self._saved is not None:
            with fitting(journal.path):
                self.history = rows_of(self._saved)
        self._before = self.history[-1][2] if self.history else 0.0
        self.start = replace(start, step=len(self.history), seconds=self._before)
        self._paused = 0.0
        self._begun = time.perf_counter()
        #: The evaluations of densities over all the fit's runs.
        self.cost = Tally()

    def __enter__(self) -> Watch:
        if self.journal is not None:
            self.journal.stop.waits = True
        self._tell(lambda callback: callback.on_start(self.start))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        if self.journal is not None:
            self.journal.stop.waits = False
        if kind is not None:
            self._tell(lambda callback: callback.on_end(None))

    @property
    def seconds(self) -> float:
        """The fit's wall time over all its runs, in seconds; time in callbacks and checkpoints does not count."""
        return self._before + time.perf_counter() - self._begun - self._paused

    @property
    def saved(self) -> bool:
        """Whether checkpoints are kept."""
        return self.journal is not None

    def resume(self, load: Callable[[State], None], drawing: bool = True) -> int:
        """Pass the saved state to ``load``, if there is one; return the step of that state, or 0.

        ``drawing``: put torch's generators to where they were, too. Not for a method that repeats its steps to get there.
        """
        if self.journal is None or self._saved is None:
            return 0
        with fitting(self.journal.path):
            self.cost.rows = amount(self._saved.values.get("evaluations", 0.0))  # what led here is counted, and no more
            load(State(self._saved.part("method"), dict(self._saved.values["method"])))
            if drawing:
                set_generators(self._saved.tensors["generator"], self._saved.numbered("cuda"))
        return len(self.history)

    def step(self, step: int, bound: float, snapshot: Snapshot | None = None, **numbers: float | None) -> None:
        """Record a step, call the callbacks, and write a checkpoint if one is due. Repeated steps are ignored.

        Args:
            step: how many were taken.
            bound: in nats, summed over units.
            snapshot: gives the method's state, from which it can go on.
            numbers: others of :class:`Moment`.

        Raises:
            Interrupted: if the run was asked to stop, after the checkpoint.
            ZooError: if the disk is full.
        """
        if step <= len(self.history):
            return
        asked = None if self.journal is None else self.journal.stop.asked
        saving = self.journal is not None and snapshot is not None and (asked is not None or self.journal.due)
        now = replace(
            self.start, step=step, bound=bound, seconds=self.seconds, saving=saving, **numbers)  # type: ignore[arg-type]
        self.history.append((step, bound, now.seconds))
        self._tell(lambda callback: callback.on_step(now))
        if saving and self.journal is not None and snapshot is not None:
            self._save(self.journal, now, snapshot())
        if asked is not None:
            raise Interrupted(asked)

    def rewind(self, step: int) -> None:
        """Forget the steps after ``step``: the fit takes them again, and callbacks hear of them a second time."""
        del self.history[step:]

    def end(self, fit: Fit) -> None:
        """Call the callbacks with the finished fit."""
        self._tell(lambda callback: callback.on_end(fit))

    def _save(self, journal: Journal, now: Moment, method: State) -> None:
        begun = time.perf_counter()
        cpu, cuda = generators()
        tensors = {
            **State.prefixed("method", method.tensors), "generator": cpu,
            "history": torch.tensor(self.history, dtype=torch.float64),
            **{f"cuda.{i}": state for i, state in enumerate(cuda)}}
        path = journal.save(now.step, State(tensors, {"method": method.values, "evaluations": self.cost.rows}))
        self._paused += time.perf_counter() - begun
        self._tell(lambda callback: callback.on_checkpoint(replace(now, checkpoint=path)))

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


def rows_of(state: State) -> list[tuple[int, float, float]]:
    """Return the history that a state holds.

    Raises:
        ValueError: if its steps are not 1, 2, 3, …
    """
    rows = [(int(step), float(bound), float(seconds)) for step, bound, seconds in state.tensors["history"].tolist()]
    if [step for step, _, _ in rows] != list(range(1, len(rows) + 1)):
        raise ValueError("a history with steps left out")
    return rows
