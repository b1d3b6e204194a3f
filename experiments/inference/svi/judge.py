"""The judge of a run's states: which is the best so far, whether the run still rises, and whether it has fallen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from torch import Tensor

from experiments.inference.svi.bound import Bound
from experiments.inference.svi.options import SVIOptions
from experiments.inference.svi.stopping import TOLERANCE, copies, put, standard_error, surely

#: Steps after which a state may be noted, in case that the run goes wrong within a block.
NOTED = 10


class Judge:
    """The judge of one run: at the end of each block of steps it compares the state with the best one before.

    A block may have a thousand steps, all of which a run that goes wrong within it would lose. So every few steps the state is
    noted if their mean bound is the highest.

    Args:
        bound: the bound that is maximised.
        tensors: the tensors that the run moves.
        options: the options of the run.
        block: the number of steps in a block.

    Attributes:
        start, best, noted: copies of the first state, of the best state, and of the state that was noted last.
        best_step, best_value, best_error: the step of the best state, the bound there, and the bound's standard error.
        noted_step, noted_value: the step of the noted state, and the mean bound of the steps before it.
        mark, stale: the bound that a block has to exceed, and how many blocks in a row have not exceeded this bound.
        stopped: why the run should stop; empty if the run should go on.
    """

    def __init__(self, bound: Bound, tensors: Sequence[Tensor], options: SVIOptions, block: int):
        self.bound, self.tensors, self.options, self.block = bound, tensors, options, block
        self.open = options.steps is None
        self.start, self.best, self.noted = copies(tensors), copies(tensors), copies(tensors)
        self.best_step, self.best_value, self.best_error = 0, -math.inf, 0.0
        self.noted_step, self.noted_value = 0, -math.inf
        self.mark, self.stale, self.stopped = -math.inf, 0, ""

    @property
    def early(self) -> bool:
        """Whether the run stopped since its held-out ELBO no longer rose."""
        return self.stopped.startswith("early")

    @property
    def tired(self) -> bool:
        """Whether so many blocks in a row have not raised the bound that the run need not go on."""
        return self.stale >= self.options.patience

    @property
    def best_elbo(self) -> float:
        """The best state's ELBO, as a total over the units trained on."""
        return self.best_value if self.bound.validation is None else self.best_value / (self.bound.share - 1)

    def note(self, step: int, values: Sequence[float]) -> None:
        """Note the state after ``step`` if the steps just before it are the best so far; in a warm-up, whatever they are."""
        if step % NOTED:
            return
        recent = values[max(self.options.warm_up, step - NOTED):]
        value = statistics.fmean(recent) if recent else -math.inf
        if value >= self.noted_value:
            self.noted, self.noted_step, self.noted_value = copies(self.tensors), step, value

    def go_back(self, first: float) -> None:
        """Put the best known state in place, for good: the start, of bound ``first``, the best state, or the noted one.

        They are compared under the present objective; where that is finite at none of them, by what it was. Held-out units
        that know the best state have the last word.
        """
        share = 1.0 if self.bound.validation is None else self.bound.share - 1  # of held-out units, as the best value is
        known = [(self.start, 0, first * share)]
        if self.best_step:
            known.append((self.best, self.best_step, self.best_value))
        if self.noted_step and not (self.best_step and self.bound.validation is not None):
            known.append((self.noted, self.noted_step, self.noted_value * share))
        now = [self.at(state) for state, _, _ in known]
        # What failed for some calls in a row may have done so at these states, too: they are asked once more.
        now = [value if math.isfinite(value) else self.at(state) for value, (state, _, _) in zip(now, known, strict=True)]
        chosen = max(range(len(known)), key=lambda i: (now[i], known[i][2]))
        self.best, self.best_step, was = known[chosen]
        self.best_value = was if math.isfinite(was) else now[chosen] * share
        put(self.tensors, self.best)

    def judge(self, step: int, values: Sequence[float]) -> None:
        """Compare the block that ends at ``step`` with the best before it; keep its state if it is better."""
        recent = values[max(self.options.warm_up, step - self.block):]
        if not recent:
            return  # another objective: its values say nothing of this one's
        value, error = self._compared(step, recent)
        least = 0.25 * TOLERANCE * self.bound.held if self.open else 0.0
        if value > self.mark + least:
            self.mark, self.stale = value, 0
            return
        self.stale += 1
        if self.bound.validation is None:
            self._watch(step, recent, values[0], value, error)
        elif self.tired and not self.open:
            self.stopped = f"early: the held-out ELBO has not risen since step {self.best_step}"

    def fallen(self, values: Sequence[float]) -> str:
        """Return why the run counts as diverged: its last block lies well below its best one, or the whole below its start."""
        if not values:
            return ""
        value, error = standard_error(values[-self.block:])
        if self.bound.validation is None and self.best_step and self._below_best(len(values), values[0], value, error):
            return f"the {self.bound.label} ended at {value:.5g}, below the {self.best_value:.5g} it had been at"
        if not math.isfinite(value):
            return f"the {self.bound.label} is no longer finite"
        if self.options.warm_up or not value < values[0]:
            return ""  # values of a warm-up are of another objective
        last = copies(self.tensors)
        lost = self.at(self.start) - self.at(last)
        put(self.tensors, last)
        large = max(0.5 * self.bound.units, 0.02 * abs(values[0]))
        return f"the {self.bound.label} ended at {value:.5g}, below its start" if lost > large else ""

    def at(self, state: Sequence[Tensor]) -> float:
        """Put a state in place and return its bound, on the same units and noise for any."""
        put(self.tensors, state)
        return self.bound.value()

    def keep(self, step: int, value: float, error: float) -> None:
        """Take the present state for the best one."""
        self.best, self.best_step, self.best_value, self.best_error = copies(self.tensors), step, value, error

    def _compared(self, step: int, recent: Sequence[float]) -> tuple[float, float]:
        """Return a block's bound and its standard error, held-out where units are; keep its state if that is better."""
        if self.bound.validation is not None:
            return self._held_out(step), 0.0
        value, error = standard_error(recent)
        if value > self.best_value:
            self.keep(step, value, error)
        return value, error

    def _held_out(self, step: int) -> float:
        """Return the held-out ELBO; keep the state if that is higher than the best's by more than a standard error."""
        held, best = self.bound.held_out(), self._look_again() if self.best_step else None
        value = float(held.sum())
        if value > self.best_value and (best is None or not bool(best.isfinite().all()) or surely(held - best) > 0):
            self.keep(step, value, 0.0)
        return value

    def _watch(self, step: int, recent: Sequence[float], first: float, value: float, error: float) -> None:
        """Stop the run where its bound has fallen far below all that it was."""
        typical, before = statistics.median(recent), max(first, self.best_elbo)
        far = typical < min(first, self.best_elbo) - 10 * abs(before) - 100 * self.bound.units  # not one wild draw
        if far and self._lost(step, value, error):
            self.stopped = f"the {self.bound.label} fell to {typical:.4g}, far below {before:.4g}"

    def _below_best(self, step: int, first: float, value: float, error: float) -> bool:
        """Return whether the last block's bound lies below the best's by more than noise, and so does its state."""
        best = self.best_value
        noise = 5 * math.hypot(error, self.best_error) + max(0.5 * self.bound.units, 0.02 * abs(best))
        return value < best - noise and best - value > 0.5 * (best - first) and self._lost(step, value, error)

    def _look_again(self) -> Tensor:
        """Return the best state's held-out ELBO, taken anew: a callback or a schedule may have changed the objective since."""
        now = copies(self.tensors)
        put(self.tensors, self.best)
        held = self.bound.held_out()
        put(self.tensors, now)
        if float(held.sum()) != self.best_value:
            self.best_value = self.mark = float(held.sum())
        return held

    def _lost(self, step: int, value: float, error: float) -> bool:
        """Return whether the best state is better than the present one under the present objective; if not, forget it."""
        now = copies(self.tensors)
        best, here = self.at(self.best if self.best_step else self.start), self.at(now)
        put(self.tensors, now)
        if best - here > max(0.5 * self.bound.units, 0.02 * abs(best)):
            return True
        self.keep(step, value, error)
        self.mark = value
        self.noted, self.noted_step, self.noted_value = self.best, step, value
        return False
