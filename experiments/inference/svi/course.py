"""The course of a run: when its learning rate falls, and when it has settled and ends."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from experiments.inference.svi.bound import Bound
from experiments.inference.svi.judge import Judge
from experiments.inference.svi.options import Pace, SVIOptions
from experiments.inference.svi.stopping import EVERY, REACH, TOLERANCE, Windows, closings, copies, put, rises

#: Steps over which a rate falls, at least.
FALL = 100
#: Steps of a run that is asked whether it has settled, at least: to ask takes as long as some seventy.
LEAST = 200


class Course:
    """The course of one run: it climbs until it has settled, then its learning rate falls, and it ends.

    Args:
        bound: the bound that is maximised.
        judge: the judge of the run's states.
        options: the options of the run.
        pace: the pace of the learning rate.
        rate: the learning rate at the first step: Adam moves a parameter by about as much in a step, at most.

    Attributes:
        open: whether the run ends when it has converged, and not after a given number of steps.
        steps: the largest number of steps of the run.
        windows, closings: the means of the iterates over windows of steps, and the steps at which a window ends.
        plateau: the mean of the iterates when the learning rate began to fall.
        done: whether the run has ended.
    """

    def __init__(self, bound: Bound, judge: Judge, options: SVIOptions, pace: Pace, rate: float):
        self.bound, self.judge, self.options, self.pace, self.rate = bound, judge, options, pace, rate
        self.open, self.steps = options.steps is None, options.limit
        self.windows = Windows(max(1, min(EVERY, self.steps // 100)))
        self.closings = set(closings(options.steps, self.steps))
        self.plateau: list[Tensor] = []
        self.done = False

    def settle(self, step: int, values: Sequence[float]) -> None:
        """Without a given end: let the rate fall once the ascent has settled; end once it has settled there, too."""
        closes = step in self.closings
        if not self.open:
            if closes and step < self.steps:
                self.windows.close()
        elif self.pace.falling:
            self._fall_on(step, values)
        elif self._arrived(step, values, closes) or step >= self.steps // 2:
            self._slow_down(step)
        elif closes:
            self.windows.close()

    def settled(self, values: Sequence[float]) -> bool:
        """Return whether going on as it went would raise the ELBO by no more than :data:`TOLERANCE` nats per unit."""
        if not self.windows.known or len(values) <= self.options.warm_up or len(values) < LEAST or self.within_reach(values):
            return False
        now = copies(self.judge.tensors)
        rising = rises(self._at, self.windows.before, self.windows.mean, TOLERANCE * self.bound.units)
        put(self.judge.tensors, now)
        return not rising

    def within_reach(self, values: Sequence[float]) -> bool:
        """Return whether the steps so far could move no parameter by :data:`REACH`: where the run stands then tells nothing."""
        return self.rate * len(values) < REACH

    def _at(self, state: Sequence[Tensor]) -> Tensor:
        put(self.judge.tensors, state)
        return self.bound.values()

    def _arrived(self, step: int, values: Sequence[float], closes: bool) -> bool:
        """Return whether the ascent has settled at its full rate, asked at the end of a block or of a window."""
        if self.bound.validation is not None:
            return step % self.judge.block == 0 and self.judge.tired and not self.within_reach(values)
        return closes and self.settled(values)

    def _fall_on(self, step: int, values: Sequence[float]) -> None:
        if step == self.pace.end:
            self._end(step, values)
        elif step == self.pace.middle:  # the last window is of the slower half
            self.windows.close()

    def _slow_down(self, step: int) -> None:
        """Let the rate fall, from the best state that is known by held-out units."""
        taken = step
        if self.bound.validation is not None and self.judge.best_step:
            put(self.judge.tensors, self.judge.best)
            taken = self.judge.best_step
        if self.options.schedule == "constant":
            self.done = True
            return
        self.plateau = copies(self.windows.mean)
        self.pace.fall(step, min(self.steps, step + max(FALL, taken)))
        self.windows.count = 0

    def _end(self, step: int, values: Sequence[float]) -> None:
        """End the run where the falling rate came to its end, or go on at a lower one."""
        self.windows.before = self.plateau
        if self.bound.validation is not None or self.settled(values):
            self.done = True
        elif step < self.steps:
            self.pace.climb()
            self.windows.close()
            ahead = [step * (4 / 3) ** k for k in range(1, 40)]
            self.closings = {round(there) for there in ahead if there <= self.steps}
