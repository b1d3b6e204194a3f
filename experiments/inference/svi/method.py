"""Stochastic variational inference: Adam on minibatch estimates of a bound."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from experiments.fits.callbacks import Watch
from experiments.fits.journal import State, alike, check_finite
from experiments.fits.result import Outcome, States
from experiments.inference.engine import check_start, non_finite_site, state_tensors, trainable
from experiments.inference.method import Method, Problem
from experiments.inference.svi.adam import moments, put_back
from experiments.inference.svi.batches import BATCH, batch_size, check_batch, check_normalisation, default_draws, hold_out
from experiments.inference.svi.objectives import Step, enumerated_elbos, stochastic_bound
from experiments.inference.svi.options import Pace, SVIOptions
from experiments.inference.svi.recorder import Recorder, check_compiled
from experiments.inference.svi.stopping import EVERY, TOLERANCE, Windows, closings, copies, rises, standard_error, surely
from experiments.log_evidence.log_weights import scored
from experiments.runtime.threads import quick_products
from guides.guide import BaseGuide
from zoo.data import Data, reference, subsample_rows, take, tensors
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError, ZooWarning
from zoo.program.latents import Latents
from zoo.program.run import generators, seeded, set_generators
from zoo.program.vectorise import LinAlgError

#: Blocks into which a run is divided: at the end of each its state is judged. And steps of one in a run without a given end.
BLOCKS, BLOCK = 50, 100
#: Minibatches, on held noise, on which two states are compared.
REPEATS = 8
#: Steps of a run that is asked whether it has settled, at least: to ask takes as long as some seventy.
LEAST = 200
#: Draws of z per unit for the held-out ELBO.
VALIDATION_DRAWS = 16
#: Seconds from which on a run says what declaring a program pure would save.
LONG = 5.0
#: What else of a run goes into a checkpoint.
_KEPT: dict[str, Callable[[Any], Any]] = {
    "best_step": int, "best_value": float, "best_error": float, "mark": float, "stale": int, "stopped": str, "done": bool}


class SVI(Method[SVIOptions]):
    """Adam on minibatch estimates of a bound; uses torch's generator.

    A minibatch holds whole units, and its bound is scaled by units / batch_size here, never by the program's plates, so
    that it is unbiased for the full one whatever the program does with scales.

    The best state is that of the block (a fiftieth of the run) with the highest mean. With a ``validation`` share it is that
    with the highest held-out ELBO, by more than a standard error of the paired difference: a later state that is hardly better
    there may have learnt by heart what it trains on. A run that diverges, or turns non-finite, is rolled back to the best
    state, and a warning says so.
    States are compared under the objective as it is then, so one that a callback or a schedule changes is not taken for a fall.

    Without ``steps`` the rate stays until the ascent has settled, then falls over as many steps again, and the run ends if
    it has settled there, too; else it climbs on at a quarter of the rate. It has settled where it no longer :func:`rises`, by
    :data:`TOLERANCE` nats per unit, or, with a ``validation`` share, where ``patience`` blocks of 100 steps raised the held-out
    ELBO by no more than a quarter of that.

    Steps of pure programs and guides are recorded, see :mod:`zoo.program.recording`; where recorded results are found to differ
    from Python's, the run goes back to the last step that was compared and on by Python. Of several processes each takes its
    share of a minibatch: their gradients are added up.

    Source: Kucukelbir et al. (2017), Automatic differentiation variational inference, https://arxiv.org/abs/1603.00788;
    Kingma and Ba (2015), Adam, https://arxiv.org/abs/1412.6980; means of where the steps lead, and rates that fall once these
    settle: Welandawe et al. (2022), Robust, automated, and accurate black-box variational inference,
    https://arxiv.org/abs/2203.15945
    """

    name = "svi"
    shares_units = True

    def suits(self, guide: BaseGuide, latents: Latents | None) -> bool:
        return True

    def misfit(self, problem: Problem) -> str:
        return ""  # what a guide can't do shows at its first draw

    def bound(self, problem: Problem, options: SVIOptions) -> str:
        units = problem.latents.units
        return options.bound.label(options.draws or default_draws(problem.guide, units, units, options.bound.alpha))

    def at_once(self, problem: Problem, options: SVIOptions) -> float:
        """A minibatch."""
        return min(1.0, (options.batch_size or BATCH) / problem.latents.units) * problem.work

    def run(self, problem: Problem, options: SVIOptions, watch: Watch) -> Outcome:
        with quick_products():
            return self._run(_Run(problem, options), watch)

    def _run(self, run: _Run, watch: Watch) -> Outcome:
        run.guide.train()
        if run.train_model:
            run.model.train()
        step, problem = watch.resume(run.load), ""
        while True:
            try:
                while step < run.steps and not (run.stopped or run.done or problem):
                    step += 1
                    problem = run.step(step)
                    if problem:
                        break
                    if step % run.block == 0 or step == run.steps:
                        run.judge(step)
                    run.settle(step)
                    run.remember(step)
                    watch.step(step, run.values[-1] * run.share, run.checkpoint, **run.numbers)
                run.check()
                if watch.seconds > LONG:
                    run.remarks += filter(None, [run.recorder.saving()])
                return run.outcome(problem)
            except Differs:
                step, problem = run.go_back(), ""
                watch.rewind(step)


class Differs(Exception):  # a way out, no error
    """Recorded results are not what Python would have come to."""


class _Run:
    """One run of Adam and what it remembers."""

    def __init__(self, problem: Problem, options: SVIOptions):
        self.model, self.guide, self.training, self.processes = problem.model, problem.guide, options, problem.processes
        model, guide, training, train_model = problem.model, problem.guide, options, problem.train_model
        self.train_model = train_model
        #: Whether the run ends when it has converged, and the steps that it takes at most.
        self.open, self.steps = options.steps is None, options.limit
        self.x, self.validation, self.held = hold_out(model, guide, problem.x, self._validation(problem.x, train_model))
        self.units = model.latents(self._view(self.x)).units
        #: What totals over the units trained on are multiplied by to be totals over all.
        self.share = (self.units + self.held) / self.units
        self.size = batch_size(model, guide, self.units, options.batch_size)
        self.draws = options.draws or default_draws(guide, self.units, self.size, options.bound.alpha)
        if self.draws < 2 and options.bound.alpha != 1:
            raise ZooError(
                f"expected 2 or more draws with objective {options.objective}, which is the ELBO at one; got {self.draws}; "
                "pass more, or leave the objective out")
        self.label = training.bound.label(self.draws)
        self.parameters = trainable(model, guide, train_model)
        self.tensors = state_tensors(model, guide, train_model)
        reason = model.purity() or guide.purity() if problem.pure is None else "" if problem.pure else "pure=False"
        if training.compile:
            check_compiled(reason)
        self.recorder = Recorder(self._steadily, [guide, model], reason, training.compile, model.unchanged)
        #: The places of those that are trained among all parameters; and among them, of those that have a gradient.
        every = {id(p): i for i, p in enumerate(nn.ModuleList([guide, model]).parameters())}
        self.places = [every[id(p)] for p in self.parameters]
        self.used = list(range(len(self.parameters)))
        #: The last state of which recorded results are known to be Python's: how many comparisons there had been, and the step.
        self.safe: tuple[int, int, State, tuple[Tensor, list[Tensor]]] | None = None
        self.remarks: list[str] = []
        check_start(model, guide, self._view(subsample_rows(self.x) if guide.new_units and self.size < self.units else self.x))
        if self.size == 1:
            first = None if self.units == 1 else torch.zeros(1, dtype=torch.long, device=reference(self.x).device)
            one = self.x if first is None else take(self.x, first, self.units)
            check_normalisation(model, guide, self._view(one), first, train_model)
        rate = training.learning_rate or min(model.learning_rate, guide.learning_rate)
        self.optimiser = torch.optim.Adam(self.parameters, lr=rate, fused=True)
        self.pace = Pace(training.schedule, 0 if self.open else self.steps)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: self.pace(step))
        self.block = BLOCK if self.open else max(10, self.steps // BLOCKS)
        self.windows = Windows(max(1, min(EVERY, self.steps // 100)))
        self.closings = set(closings(options.steps, self.steps))
        #: Where the ascent had settled when its rate began to fall.
        self.plateau: list[Tensor] = []
        #: The units that a pass over the data has yet to come to.
        self.order = torch.empty(0, dtype=torch.long)
        self.values: list[float] = []
        #: Of the last step: what a :class:`Moment` tells besides the ELBO.
        self.numbers: dict[str, float] = {}
        self.start = self._copy()
        self.best, self.best_step, self.best_value, self.best_error = self._copy(), 0, -math.inf, 0.0
        #: The held-out ELBO that blocks have to raise, how many in a row have not, why the run stopped, whether it is done.
        self.mark, self.stale, self.stopped, self.done = -math.inf, 0, "", False

    def step(self, step: int) -> str:
        """Take one step of Adam; return what went wrong, if anything did."""
        batch, index = self._batch()
        if step == 1 and index is not None:
            check_batch(self.model, self._view(batch), self.size)
        try:
            z, numbers, *found = self._gradients(batch, index, step)
        except LinAlgError as error:
            return f"step {step} met linear algebra that fails: {str(error).splitlines()[0]}"
        if self.recorder.differs:
            raise Differs
        if self.processes.count > 1 or self.training.clip is not None:
            # Copies: sums and clips go in place, where two parameters may share a gradient.
            found = [gradient.clone(memory_format=torch.contiguous_format) for gradient in found]
            numbers = numbers.clone()
        gradients = [gradient.contiguous() for gradient in found]  # it may be one number spread out
        self.processes.add_up([*gradients, numbers])
        value, reconstruction = numbers.tolist()
        norm = nn.utils.get_total_norm(gradients)
        # A norm may overflow where no number of the gradient does.
        finite = math.isfinite(value) and (math.isfinite(norm) or all(bool(g.isfinite().all()) for g in gradients))
        if not finite:
            return f"step {step} turned non-finite at site '{non_finite_site(self.model, batch, z)}'"
        given = dict(zip(self.used, gradients, strict=True))
        for i, parameter in enumerate(self.parameters):
            parameter.grad = given.get(i)  # of a parameter that this step left out, none is left over
        if self.training.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.training.clip * self.units, norm)
        self.numbers = {"gradient_norm": float(norm), "learning_rate": self.optimiser.param_groups[0]["lr"]}
        if self.training.bound.alpha == 1 and self._kl_weight(step) == 1:
            self.numbers |= {"reconstruction": reconstruction * self.share, "kl": (reconstruction - value) * self.share}
        self.optimiser.step()
        self.schedule.step()
        self.values.append(value)
        self.windows.add(step, self.tensors)
        return ""

    def remember(self, step: int) -> None:
        """Keep the state after a step whose recorded results were compared with Python's."""
        if self.recorder.checked > (self.safe[0] if self.safe else 0):
            self.safe = self.recorder.checked, step, self.snapshot().copy(), generators()

    def check(self) -> None:
        """Hold the last recorded step against Python's once more.

        Raises:
            Differs: it is another.
        """
        if not self.recorder.check():
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
        self.remarks.append(f"{self.recorder.differs}; the fit went back to step {step} and on by Python")
        self.recorder.differs = ""
        warnings.warn(
            ZooWarning(f"fit of '{self.guide.text}': {self.remarks[-1]}; {self.model.label} is not pure"), stacklevel=5)
        return step

    def snapshot(self) -> State:
        """Return all that a run needs to go on; torch's generators and the history are the watch's."""
        lists = {"now": self.tensors, "start": self.start, "best": self.best, "plateau": self.plateau}
        tensors = {f"{name}.{i}": value for name, values in lists.items() for i, value in enumerate(values)}
        windows, count = self.windows.save()
        tensors |= windows | State.prefixed("adam", moments(self.optimiser))
        tensors |= {"order": self.order, "values": torch.tensor(self.values, dtype=torch.float64)}
        return State(tensors, {
            **{name: getattr(self, name) for name in _KEPT}, "rates": [group["lr"] for group in self.optimiser.param_groups],
            "epoch": self.schedule.last_epoch, **count, "pace": self.pace.numbers, "closings": sorted(self.closings)})

    def load(self, state: State) -> None:
        """Go on from a :meth:`snapshot`."""
        now, self.start, self.best = (alike(state.numbered(name), self.tensors) for name in ("now", "start", "best"))
        plateau = state.numbered("plateau")
        self.plateau = list(alike(plateau, self.tensors)) if plateau else []
        self.windows.load(state, self.tensors)
        self.pace.numbers = [float(number) for number in state.values["pace"]]
        self.closings = {int(step) for step in state.values["closings"]}
        self._restore(now)
        check_finite(self.parameters)
        put_back(self.optimiser, self.parameters, state.part("adam"), state.values["rates"])
        self.schedule.load_state_dict({**self.schedule.state_dict(), "last_epoch": int(state.values["epoch"])})
        self.order, self.values = state.tensors["order"], [float(value) for value in state.tensors["values"].tolist()]
        for name, kind in _KEPT.items():
            setattr(self, name, kind(state.values[name]))
        if self.order.dtype != torch.long or bool(((self.order < 0) | (self.order >= self.units)).any()):
            raise ValueError("units of another fit")

    def judge(self, step: int) -> None:
        """Compare the block that ends at ``step`` with the best before it; keep its state if it is better."""
        recent = self.values[max(self.training.warm_up, step - self.block):]
        if not recent:
            return  # another objective: its values say nothing of this one's
        value, error = standard_error(recent)
        if self.validation is not None:
            held, best = self._held_out(), self._look_again() if self.best_step else None
            value, error = float(held.sum()), 0.0
            known = best is not None and bool(best.isfinite().all())
            if value > self.best_value and (best is None or not known or surely(held - best) > 0):
                self._keep(step, value, error)
        elif value > self.best_value:
            self._keep(step, value, error)
        least = 0.25 * TOLERANCE * self.held if self.open else 0.0
        if value > self.mark + least:
            self.mark, self.stale = value, 0
            return
        self.stale += 1
        if self.validation is not None:
            if self.stale >= self.training.patience and not self.open:
                self.stopped = f"early: the held-out ELBO has not risen since step {self.best_step}"
            return
        typical, before = statistics.median(recent), max(self.values[0], self._best_elbo())
        far = typical < min(self.values[0], self._best_elbo()) - 10 * abs(before) - 100 * self.units  # not one wild draw
        if far and self._lost(step, value, error):
            self.stopped = f"the {self.label} fell to {typical:.4g}, far below {before:.4g}"

    def settle(self, step: int) -> None:
        """Without a given end: let the rate fall once the ascent has settled; end once it has settled there, too."""
        closes = step in self.closings
        if not self.open:
            if closes and step < self.steps:
                self.windows.close()
            return
        if self.pace.falling:
            if step == self.pace.end:
                self._end(step)
            elif step == self.pace.middle:  # the last window is of the slower half
                self.windows.close()
            return
        if self.validation is not None:
            settled = step % self.block == 0 and self.stale >= self.training.patience
        else:
            settled = closes and self._settled()
        last = step >= self.steps // 2
        if settled or last:
            self._slow_down(step)
        elif closes:
            self.windows.close()

    def _slow_down(self, step: int) -> None:
        """Let the rate fall, from the best state that is known by held-out units."""
        taken = step
        if self.validation is not None and self.best_step:
            self._restore(self.best)
            taken = self.best_step
        if self.training.schedule == "constant":
            self.done = True
            return
        self.plateau = copies(self.windows.mean)
        self.pace.fall(step, min(self.steps, step + max(BLOCK, taken)))
        self.windows.count = 0

    def _end(self, step: int) -> None:
        """End the run where the falling rate came to its end, or go on at a lower one."""
        self.windows.before = self.plateau
        if self.validation is not None or self._settled():
            self.done = True
        elif step < self.steps:
            self.pace.climb()
            self.windows.close()
            ahead = [step * (4 / 3) ** k for k in range(1, 40)]
            self.closings = {round(there) for there in ahead if there <= self.steps}

    def _settled(self) -> bool:
        """Return whether going on as it went would raise the ELBO by no more than :data:`TOLERANCE` nats per unit."""
        if not self.windows.known or len(self.values) <= self.training.warm_up or len(self.values) < LEAST:
            return False
        now = self._copy()
        rising = rises(self._bounds, self.windows.before, self.windows.mean, TOLERANCE * self.units)
        self._restore(now)
        return not rising

    def _keep(self, step: int, value: float, error: float) -> None:
        self.best, self.best_step, self.best_value, self.best_error = self._copy(), step, value, error

    def _look_again(self) -> Tensor:
        """Return the best state's held-out ELBO, taken anew: a callback or a schedule may have changed the objective since."""
        now = self._copy()
        self._restore(self.best)
        held = self._held_out()
        self._restore(now)
        if float(held.sum()) != self.best_value:
            self.best_value = self.mark = float(held.sum())
        return held

    def _lost(self, step: int, value: float, error: float) -> bool:
        """Return whether the best state is better than the present one under the present objective; if not, forget it."""
        now = self._copy()
        best, here = self._bound_at(self.best if self.best_step else self.start), self._bound_at(now)
        self._restore(now)
        if best - here > max(0.5 * self.units, 0.02 * abs(best)):
            return True
        self._keep(step, value, error)
        self.mark = value
        return False

    def outcome(self, problem: str) -> Outcome:
        """Say how the run ended, with the best state in place where the last one is no match for it."""
        last, taken = self._copy(), len(self.values)
        early = self.stopped.startswith("early")
        problem = problem or ("" if early else self.stopped or self._fallen())
        values = self.values[self.training.warm_up:]
        elbo = statistics.fmean(values[-max(1, len(values) // 10):]) if values else -math.inf
        settled = not problem and (self.done or early or (not self.open and self._settled()))
        if self.validation is not None and self.best_step:
            self._restore(self.best)
            taken, elbo = self.best_step if self.stopped else taken, self._best_elbo()
        if problem:
            better = self.best_step > 0 and self._bound_at(self.best) > self._bound_at(self.start)
            self._restore(self.best if better else self.start)
            kept = f"the best state, after step {self.best_step}, is kept" if better else "the start is kept"
            self.stopped = f"{problem}; {kept}"
            elbo, settled = (self._best_elbo() if better else self.values[0] if self.values else -math.inf), False
            warnings.warn(ZooWarning(
                f"fit of '{self.guide.text}' diverged: {self.stopped}; lower the learning rate, or set clip"), stacklevel=5)
        states = States(tuple(self.tensors), tuple(self.best), tuple(last), self.best_step)
        return Outcome(taken, elbo * self.share, settled, self.stopped, states, tuple(self.remarks))

    def _best_elbo(self) -> float:
        """The best state's ELBO, as a total over the units trained on."""
        return self.best_value if self.validation is None else self.best_value / (self.share - 1)

    def _fallen(self) -> str:
        """Return why the run counts as diverged: its last block lies well below its best one, or the whole below its start."""
        if not self.values:
            return ""
        value, error = standard_error(self.values[-self.block:])
        if self.validation is None and self.best_step:
            best = self.best_value
            noise = 5 * math.hypot(error, self.best_error) + max(0.5 * self.units, 0.02 * abs(best))
            if value < best - noise and best - value > 0.5 * (best - self.values[0]) and self._lost(
                    len(self.values), value, error):
                return f"the {self.label} ended at {value:.5g}, below the {best:.5g} it had been at"
        if not math.isfinite(value):
            return f"the {self.label} is no longer finite"
        if self.training.warm_up or not value < self.values[0]:
            return ""  # values of a warm-up are of another objective
        last = self._copy()
        lost = self._bound_at(self.start) - self._bound_at(last)
        self._restore(last)
        large = max(0.5 * self.units, 0.02 * abs(self.values[0]))
        return f"the {self.label} ended at {value:.5g}, below its start" if lost > large else ""

    def _gradients(self, batch: Data, index: Tensor | None, step: int) -> tuple[Tensor, ...]:
        """Return the draws, the bound's value and reconstruction as one tensor, and the loss's gradients, of :attr:`used`."""
        batch = self._view(batch)
        if self.processes.count > 1 or self._kl_weight(step) != 1:
            return self._run(self.parameters, batch, index, step)
        inputs = [] if batch is self.x else [*tensors(batch).values()]
        return self.recorder(*inputs) if index is None else self.recorder(*inputs, index)

    def _steadily(self, parameters: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run a step of a minibatch's entries, in their order, and its units' numbers; of what is left out, all there is."""
        given = dict(zip(tensors(self.x), inputs, strict=False))
        batch = self.x if not given else given if isinstance(self.x, Mapping) else inputs[0]
        index = inputs[-1] if len(inputs) > len(given) else None
        trained = [parameters[i] for i in self.places]
        return self._run(trained, batch, index, self.steps + self.training.warm_up + 1)

    def _run(self, parameters: Sequence[Tensor], batch: Data, index: Tensor | None, step: int) -> tuple[Tensor, ...]:
        done = self._bound(batch, index, step)
        found = torch.autograd.grad(done.loss, parameters, allow_unused=True)
        self.used = [i for i, gradient in enumerate(found) if gradient is not None]
        numbers = torch.stack([done.value.detach(), done.reconstruction])
        return done.z.detach(), numbers, *(gradient for gradient in found if gradient is not None)

    def _bound(self, batch: Data, index: Tensor | None, step: int) -> Step:
        t = self.training
        if index is not None:
            self.model.runner.adopt(batch, len(index))
        return stochastic_bound(
            self.model, self.guide, batch, index, self.units, self.draws, t.bound, t.estimator,
            self._kl_weight(step), self.processes)

    def _kl_weight(self, step: int) -> float:
        warm_up = self.training.warm_up
        return min(1.0, step / (warm_up + 1)) if warm_up else 1.0

    def _bound_at(self, state: list[Tensor]) -> float:
        """Return the bound at a state, on the same units and noise for any."""
        self._restore(state)
        index = torch.arange(self.size, device=reference(self.x).device) if self.size < self.units else None
        batch = self.x if index is None else take(self.x, index, self.units)
        with seeded(0), torch.no_grad():
            step = self.steps + self.training.warm_up + 1
            value = float(self.processes.total(self._bound(self._view(batch), index, step).value))
        return value if math.isfinite(value) else -math.inf

    def _bounds(self, state: Sequence[Tensor]) -> Tensor:
        """Return the bound at a state on :data:`REPEATS` minibatches and noises, (repeats,), the same for any state."""
        self._restore(state)
        values = []
        with torch.no_grad():
            for repeat in range(REPEATS):
                with seeded(repeat + 1):
                    index = torch.randperm(self.units)[: self.size] if self.size < self.units else None
                    batch = self.x if index is None else take(self.x, index.to(reference(self.x).device), self.units)
                    found = self._bound(self._view(batch), index, self.steps + self.training.warm_up + 1).value
                    values.append(self.processes.total(found))
        return torch.stack(values).double()

    def _validation(self, x: Data, train_model: bool) -> float:
        """Return the share of units to hold out: as asked; where nobody says, and the run has no given end, one that tells when
        a guide's networks begin to learn units by heart."""
        share = self.training.validation
        if share is not None or not self.open or not self.guide.new_units or self.processes.count > 1:
            return share or 0.0
        units = len(reference(x)) if isinstance(x, Tensor) else self.model.latents(x).units
        size = sum(p.numel() for p in trainable(self.model, self.guide, train_model))
        return min(512, max(20, units // 10)) / units if size > units >= 200 else 0.0

    def _view(self, batch: Data) -> Data:
        view = self.training.view
        return view(batch) if view is not None and isinstance(batch, Tensor) else batch

    def _batch(self) -> tuple[Data, Tensor | None]:
        """Return the next minibatch: each unit comes once before any comes again."""
        if self.size == self.units:
            return self.x, None  # a guide with parameters for each unit may be served all of them without saying which
        if len(self.order) < self.size:
            again = torch.randperm(self.units)
            self.order = torch.cat([self.order, again]) if len(self.order) else again
        index, self.order = self.order[: self.size].to(reference(self.x).device), self.order[self.size:]
        return take(self.x, index, self.units), index

    def _held_out(self) -> Tensor:
        """Return the ELBO of each held-out unit, (held,), on the same noise each time."""
        assert self.validation is not None, "asked for only with a validation share"
        training = self.model.training
        self.guide.eval()
        self.model.eval()
        with seeded(0), torch.no_grad():
            x = self._view(self.validation)
            q = self.guide.posterior(x)
            if isinstance(q, Enumerated):
                value = enumerated_elbos(self.model, q, x)
            else:
                z, log_q = scored(q, VALIDATION_DRAWS)
                value = (self.model.log_joint(x, z) - log_q).mean(0)
        self.guide.train()
        self.model.train(training)
        return value

    def _copy(self) -> list[Tensor]:
        return [t.detach().clone() for t in self.tensors]

    def _restore(self, state: Sequence[Tensor]) -> None:
        torch._foreach_copy_([t.detach() for t in self.tensors], list(state))

