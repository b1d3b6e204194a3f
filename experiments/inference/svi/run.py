"""One run of stochastic variational inference: its steps, what checkpoints keep of it, and how it ended."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from experiments.fits.result import Outcome, States
from experiments.fits.state import State, alike, check_finite
from experiments.inference.engine import state_tensors
from experiments.inference.method import Problem
from experiments.inference.svi.adam import moments, put_back
from experiments.inference.svi.ascent import Ascent, Differs
from experiments.inference.svi.bound import Bound
from experiments.inference.svi.course import Course
from experiments.inference.svi.judge import Judge
from experiments.inference.svi.options import Pace, SVIOptions
from experiments.inference.svi.stopping import FIRST, REACH, copies, put
from zoo.errors import ZooWarning
from zoo.program.run import generators, set_generators

#: Blocks into which a run is divided: at the end of each its state is judged. And steps of one in a run without a given end.
BLOCKS, BLOCK = 50, 100
#: What a checkpoint keeps of the judge, besides states.
_JUDGED: dict[str, Callable[[Any], Any]] = {
    "best_step": int, "best_value": float, "best_error": float, "noted_step": int, "noted_value": float, "mark": float,
    "stale": int, "stopped": str}


class Run:
    """One run: an ascent of a bound, the judge of its states, and the course that it takes.

    Attributes:
        tensors: the tensors that the run moves.
        remarks: remarks on the run.
        safe: the last state whose recorded results agreed with Python's: the number of comparisons so far, the step, the state,
            and the state of torch's generators.
    """

    def __init__(self, problem: Problem, options: SVIOptions):
        self.problem, self.options = problem, options
        self.tensors = state_tensors(problem.model, problem.guide, problem.train_model)
        self.bound = Bound(problem, options)
        pace = Pace(options.schedule, 0 if options.steps is None else options.limit)
        self.ascent = Ascent(problem, self.bound, options, pace)
        self.bound.check(problem.train_model)
        block = BLOCK if options.steps is None else max(10, options.limit // BLOCKS)
        self.judge = Judge(self.bound, self.tensors, options, block)
        self.course = Course(self.bound, self.judge, options, pace, self.ascent.rate)
        self.remarks: list[str] = []
        self.safe: tuple[int, int, State, tuple[Tensor, list[Tensor]]] | None = None

    def going(self, step: int) -> bool:
        """Return whether there is a step after ``step``."""
        return step < self.course.steps and not (self.judge.stopped or self.course.done)

    def step(self, step: int) -> str:
        """Take one step, and judge where it led; return what went wrong, if anything did.

        Raises:
            Differs: recorded results were compared with Python's, and are others.
        """
        problem = self.ascent.step(step)
        if problem:
            return problem
        self.course.windows.add(step, self.tensors)
        self.judge.note(step, self.ascent.values)
        if step % self.judge.block == 0 or step == self.course.steps:
            self.judge.judge(step, self.ascent.values)
        self.course.settle(step, self.ascent.values)
        if self.course.open and step == FIRST and self._in_vain():
            self.course.done = True
        self._remember(step)
        return ""

    def check(self) -> None:
        """Hold the last recorded step against Python's once more.

        Raises:
            Differs: it is another.
        """
        if not self.ascent.recorder.check():
            raise Differs

    def checkpoint(self) -> State:
        """Return a :meth:`snapshot` of a state that was checked.

        Raises:
            Differs: it is not what Python would have come to.
        """
        self.check()
        return self.snapshot()

    def go_back(self) -> int:
        """Put the last state in place of which recorded results are known to be Python's; return the step."""
        assert self.safe is not None, "only a recording that was compared can come to differ"
        _, step, state, drawn = self.safe
        self.load(state)
        set_generators(*drawn)
        recorder = self.ascent.recorder
        self.remarks.append(f"{recorder.differs}; the fit went back to step {step} and on by Python")
        recorder.differs = ""
        warnings.warn(ZooWarning(
            f"fit of '{self.problem.guide.text}': {self.remarks[-1]}; {self.problem.model.label} is not pure"), stacklevel=5)
        return step

    def snapshot(self) -> State:
        """Return all that a run needs to go on; torch's generators and the history are the watch's."""
        ascent, judge, course = self.ascent, self.judge, self.course
        lists = {"now": self.tensors, "start": judge.start, "best": judge.best, "noted": judge.noted, "plateau": course.plateau}
        tensors = {f"{name}.{i}": value for name, values in lists.items() for i, value in enumerate(values)}
        windows, count = course.windows.save()
        tensors |= windows | State.prefixed("adam", moments(ascent.optimiser))
        tensors |= {"order": self.bound.order, "values": torch.tensor(ascent.values, dtype=torch.float64)}
        return State(tensors, {
            **{name: getattr(judge, name) for name in _JUDGED}, "done": course.done,
            "rates": [group["lr"] for group in ascent.optimiser.param_groups], "epoch": ascent.schedule.last_epoch, **count,
            "pace": course.pace.numbers, "closings": sorted(course.closings)})

    def load(self, state: State) -> None:
        """Go on from a :meth:`snapshot`."""
        ascent, judge, course = self.ascent, self.judge, self.course
        now, judge.start, judge.best = (list(alike(state.numbered(name), self.tensors)) for name in ("now", "start", "best"))
        judge.noted = list(alike(state.numbered("noted") or judge.best, self.tensors))
        plateau = state.numbered("plateau")
        course.plateau = list(alike(plateau, self.tensors)) if plateau else []
        course.windows.load(state, self.tensors)
        course.pace.numbers = [float(number) for number in state.values["pace"]]
        course.closings = {int(step) for step in state.values["closings"]}
        put(self.tensors, now)
        check_finite(ascent.parameters)
        put_back(ascent.optimiser, ascent.parameters, state.part("adam"), state.values["rates"])
        ascent.schedule.load_state_dict({**ascent.schedule.state_dict(), "last_epoch": int(state.values["epoch"])})
        ascent.values = [float(value) for value in state.tensors["values"].tolist()]
        kept = {"noted_step": 0, "noted_value": -math.inf, **state.values}  # earlier versions noted no state
        for name, kind in _JUDGED.items():
            setattr(judge, name, kind(kept[name]))
        course.done = bool(state.values["done"])
        self.bound.order = order = state.tensors["order"]
        if order.dtype != torch.long or bool(((order < 0) | (order >= self.bound.served)).any()):
            raise ValueError("units of another fit")

    def outcome(self, problem: str) -> Outcome:
        """Say how the run ended, with the best state in place where the last one is no match for it."""
        judge, values, last = self.judge, self.ascent.values, copies(self.tensors)
        problem = problem or ("" if judge.early else judge.stopped or judge.fallen(values))
        settled = not problem and (self.course.done or judge.early or (not self.course.open and self.course.settled(values)))
        slow = "" if problem else self._too_slow()
        settled = settled and not slow and not self.course.within_reach(values)
        taken, elbo = self._arrived()
        if problem:
            elbo, settled = self._rolled_back(problem), False
        states = States(tuple(self.tensors), tuple(judge.best), tuple(last), judge.best_step)
        return Outcome(taken, elbo * self.bound.share, settled, slow or judge.stopped, states, tuple(self.remarks))

    def _remember(self, step: int) -> None:
        """Keep the state after a step whose recorded results were compared with Python's."""
        checked = self.ascent.recorder.checked
        if checked > (self.safe[0] if self.safe else 0):
            self.safe = checked, step, self.snapshot().copy(), generators()

    def _in_vain(self) -> bool:
        """Return whether a run that ends when it has converged never will, however many of its steps it takes."""
        return self.ascent.rate * self.course.steps < REACH or self._lost_in_rounding()

    def _too_slow(self) -> str:
        """Return why the run can't have converged where its steps were too small to get anywhere; empty where they were not."""
        values, rate = self.ascent.values, self.ascent.rate
        if self._lost_in_rounding():
            return f"not converged: a step at learning rate {rate:g} is lost in rounding; raise --learning-rate"
        if self.options.learning_rate is not None and self.course.within_reach(values):
            return (
                f"not converged: {len(values):,} steps at learning rate {rate:g} move no parameter by {REACH:.2g}; raise "
                "--learning-rate, or --steps")
        return ""

    def _lost_in_rounding(self) -> bool:
        """Return whether a parameter that has a gradient is where it began, as a step adds less to it than rounding takes."""
        begun, rate = dict(zip(map(id, self.tensors), self.judge.start, strict=True)), self.ascent.rate
        return any(
            torch.equal(parameter, begun[id(parameter)]) and torch.equal(parameter, parameter + rate)
            for parameter in self.ascent.moved())

    def _arrived(self) -> tuple[int, float]:
        """Put the best state in place where held-out units tell it; return the steps that count and the ELBO there."""
        judge, taken = self.judge, len(self.ascent.values)
        if self.bound.validation is not None and judge.best_step:
            put(self.tensors, judge.best)
            return judge.best_step if judge.stopped else taken, judge.best_elbo
        values = self.ascent.values[self.options.warm_up:]
        return taken, statistics.fmean(values[-max(1, len(values) // 10):]) if values else -math.inf

    def _rolled_back(self, problem: str) -> float:
        """Put the best state that is known in place of a run that went wrong; warn; return the ELBO there."""
        judge, values = self.judge, self.ascent.values
        judge.go_back(values[0] if values else -math.inf)
        kept = f"the best state, after step {judge.best_step}, is kept" if judge.best_step else "the start is kept"
        judge.stopped = f"{problem}; {kept}"
        warnings.warn(ZooWarning(
            f"fit of '{self.problem.guide.text}' diverged: {judge.stopped}; lower the learning rate, or set clip"),
            stacklevel=6)
        return judge.best_elbo
