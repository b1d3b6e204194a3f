"""Adam on a fit's bound, step by step: by Python, or by the recorded operations of a step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from experiments.inference.engine import non_finite_site, trainable
from experiments.inference.method import Problem
from experiments.inference.svi.bound import Bound
from experiments.inference.svi.options import Pace, SVIOptions
from experiments.inference.svi.recorder import Recorder, check_compiled
from zoo.data import Data, tensors
from zoo.program.vectorise import LinAlgError


class Differs(Exception):  # a way out, no error
    """Recorded results are not what Python would have come to."""


class Ascent:
    """The steps of one run of Adam.

    Args:
        problem: what is fitted.
        bound: the bound that is maximised.
        options: the options of the method.
        pace: the factor of the learning rate after each step.

    Attributes:
        parameters: the parameters that are trained.
        rate: the learning rate at the first step.
        values: the bound's estimate at each step.
        numbers: the numbers of the last step that a :class:`Moment` reports besides the ELBO.

    Raises:
        ZooError: steps are to be compiled, but the program or the guide is not known to be pure.
    """

    def __init__(self, problem: Problem, bound: Bound, options: SVIOptions, pace: Pace):
        model, guide = problem.model, problem.guide
        self.bound, self.options = bound, options
        self.parameters = trainable(model, guide, problem.train_model)
        reason = impurity(problem)
        if options.compile:
            check_compiled(reason)
        self.recorder = Recorder(self._steadily, [guide, model], reason, options.compile, model.unchanged)
        #: The places of those that are trained among all parameters; and among them, of those that have a gradient.
        every = {id(p): i for i, p in enumerate(nn.ModuleList([guide, model]).parameters())}
        self.places = [every[id(p)] for p in self.parameters]
        self.used = list(range(len(self.parameters)))
        self.rate = options.learning_rate or min(model.learning_rate, guide.learning_rate)
        self.optimiser = torch.optim.Adam(self.parameters, lr=self.rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, lambda step: pace(step))
        self.values: list[float] = []
        self.numbers: dict[str, float] = {}

    def step(self, step: int) -> str:
        """Take one step; return what went wrong, if anything did.

        Raises:
            Differs: recorded results were compared with Python's, and are others.
        """
        bound = self.bound
        batch, index = bound.minibatch()
        if step == 1:
            bound.check_batch(batch, index)
        try:
            z, numbers, *found = self._gradients(batch, index, step)
        except LinAlgError as error:
            return f"step {step} met linear algebra that fails: {str(error).splitlines()[0]}"
        if self.recorder.differs:
            raise Differs
        numbers, gradients = self._added_up(numbers, found)
        value, reconstruction = numbers.tolist()
        norm = nn.utils.get_total_norm(gradients)
        # A norm may overflow where no number of the gradient does.
        if not math.isfinite(value) or not (math.isfinite(norm) or all(bool(g.isfinite().all()) for g in gradients)):
            return f"step {step} turned non-finite at site '{non_finite_site(bound.model, batch, z)}'"
        self.numbers = {"gradient_norm": float(norm), "learning_rate": self.optimiser.param_groups[0]["lr"]}
        if self.options.bound.alpha == 1 and bound.kl_weight(step) == 1:
            self.numbers |= {"reconstruction": reconstruction * bound.share, "kl": (reconstruction - value) * bound.share}
        self._move(gradients, norm)
        self.values.append(value)
        return ""

    def moved(self) -> list[Tensor]:
        """Return the parameters that have had a gradient other than zero."""
        kept = self.optimiser.state
        return [one for one in self.parameters if one in kept and bool(kept[one]["exp_avg_sq"].any())]

    def _added_up(self, numbers: Tensor, found: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Return a step's numbers and gradients, those of all processes added up."""
        processes = self.bound.processes
        if processes.count > 1 or self.options.clip is not None:
            # Copies: sums and clips go in place, where two parameters may share a gradient.
            found = [gradient.clone(memory_format=torch.contiguous_format) for gradient in found]
            numbers = numbers.clone()
        gradients = [gradient.contiguous() for gradient in found]  # it may be one number spread out
        processes.add_up([*gradients, numbers])
        return numbers, gradients

    def _move(self, gradients: Sequence[Tensor], norm: Tensor) -> None:
        """Move the parameters by their gradients, of :attr:`used`, and the learning rate."""
        given = dict(zip(self.used, gradients, strict=True))
        for i, parameter in enumerate(self.parameters):
            parameter.grad = given.get(i)  # of a parameter that this step left out, none is left over
        if self.options.clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.options.clip * self.bound.units, norm)
        self.optimiser.step()
        self.schedule.step()

    def _gradients(self, batch: Data, index: Tensor | None, step: int) -> tuple[Tensor, ...]:
        """Return the draws, the bound's value and reconstruction as one tensor, and the loss's gradients, of :attr:`used`."""
        batch, weight = self.bound.view(batch), self.bound.kl_weight(step)
        if self.bound.processes.count > 1 or weight != 1:
            return self._by_python(self.parameters, batch, index, weight)
        inputs = [] if batch is self.bound.x else [*tensors(batch).values()]
        return self.recorder(*inputs) if index is None else self.recorder(*inputs, index)

    def _steadily(self, parameters: Sequence[Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run a step of a minibatch's entries, in their order, and its units' numbers; of what is left out, all there is."""
        x = self.bound.x
        given = dict(zip(tensors(x), inputs, strict=False))
        batch = x if not given else given if isinstance(x, Mapping) else inputs[0]
        index = inputs[-1] if len(inputs) > len(given) else None
        return self._by_python([parameters[i] for i in self.places], batch, index, 1.0)

    def _by_python(self, parameters: Sequence[Tensor], batch: Data, index: Tensor | None, weight: float) -> tuple[Tensor, ...]:
        done = self.bound.estimate(batch, index, weight)
        found = torch.autograd.grad(done.loss, parameters, allow_unused=True)
        self.used = [i for i, gradient in enumerate(found) if gradient is not None]
        numbers = torch.stack([done.value.detach(), done.reconstruction])
        return done.z.detach(), numbers, *(gradient for gradient in found if gradient is not None)


def impurity(problem: Problem) -> str:
    """Return why runs of the program and the guide are not known to be pure; empty where they are."""
    if problem.pure is not None:
        return "" if problem.pure else "pure=False"
    return problem.model.purity() or problem.guide.purity()
