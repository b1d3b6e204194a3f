"""The bound that a fit maximises: on minibatches, on noise that is the same for any state, and on held-out units."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from experiments.inference.engine import check_start, trainable
from experiments.inference.method import Problem
from experiments.inference.svi.batches import (
    BATCH,
    batch_size,
    check_batch,
    check_normalisation,
    default_draws,
    hold_out,
    random_units,
)
from experiments.inference.svi.objectives import Estimation, Step, enumerated_elbos, stochastic_bound
from experiments.inference.svi.options import SVIOptions
from experiments.inference.svi.rows import MANY as ROWS
from experiments.inference.svi.rows import rows_bound, rows_served
from zoo.data import Data, reference, subsample_rows, take
from zoo.distributions.enumerated import Enumerated
from zoo.distributions.scored import scored
from zoo.errors import ZooError
from zoo.program.run import seeded

#: Minibatches, on held noise, on which two states are compared.
REPEATS = 8
#: Draws of z per unit for the held-out ELBO.
VALIDATION_DRAWS = 16


class Bound:
    """One fit's bound on log p(x), at the state that its model and guide are in.

    Attributes:
        model, guide, processes: the model, the guide and the processes of the fit.
        x: the training units.
        validation: the held-out units; ``None``: no unit is held out.
        units, held: the numbers of training units and of held-out units.
        served: how many units minibatches are drawn from; of a data set that is one unit, how many of its rows.
        by_rows: whether minibatches are of the rows of one unit, see :mod:`experiments.inference.svi.rows`.
        share: the factor that turns a total over the training units into a total over all units.
        size: the number of units in a minibatch, or of rows.
        label: the name of the bound.
        order: the training units, or rows, that the present pass over the data has not come to yet.

    Raises:
        ZooError: options that the data, the model or the guide do not allow.
    """

    def __init__(self, problem: Problem, options: SVIOptions):
        self.model, self.guide, self.processes, self.options = problem.model, problem.guide, problem.processes, options
        self.x, self.validation, self.held = hold_out(self.model, self.guide, problem.x, self._held_out_share(problem))
        self.units = self.model.latents(self.view(self.x)).units
        self.share = (self.units + self.held) / self.units
        rows = rows_served(self.model, self.guide, self.x, options) if self.units == 1 and self.processes.count == 1 else 0
        self.by_rows, self.served = bool(rows), rows or self.units
        most = ROWS if self.by_rows else BATCH
        self.size = batch_size(self.model, self.guide, self.served, options.batch_size, most)
        draws = options.draws or default_draws(self.guide, self.units, self.size, options.bound.alpha)
        if draws < 2 and options.bound.alpha != 1:
            raise ZooError(
                f"expected 2 or more draws with objective {options.objective}, which is the ELBO at one; got {draws}; "
                "pass more, or leave the objective out")
        self.how = Estimation(draws, options.bound, options.estimator, self.processes)
        self.label = options.bound.label(draws)
        self.order = torch.empty(0, dtype=torch.long)

    def check(self, train_model: bool) -> None:
        """Raise a :class:`ZooError` where the fit can't start: at a bound that is not finite, or batches of one unit."""
        if self.by_rows and not math.isfinite(self.value()):
            raise ZooError(
                f"expected a finite ELBO where the fit starts, on the first {self.size} rows; got none; check the data and the "
                "model's scales, or use float64 data")
        if self.by_rows:
            return
        few = self.guide.new_units and self.size < self.units
        check_start(self.model, self.guide, self.view(subsample_rows(self.x) if few else self.x))
        if self.size == 1:
            first = None if self.units == 1 else torch.zeros(1, dtype=torch.long, device=reference(self.x).device)
            one = self.x if first is None else take(self.x, first, self.units)
            check_normalisation(self.model, self.guide, self.view(one), first, train_model)

    def check_batch(self, batch: Data, index: Tensor | None) -> None:
        """Raise a :class:`ZooError` where rows of x are no units of the program."""
        if index is not None and not self.by_rows:
            check_batch(self.model, self.view(batch), self.size)

    def view(self, batch: Data) -> Data:
        """Return a fresh view of a minibatch, if the fit has any; the minibatch, else."""
        view = self.options.view
        return view(batch) if view is not None and isinstance(batch, Tensor) else batch

    def minibatch(self) -> tuple[Data, Tensor | None]:
        """Return the next minibatch, and its units' numbers: each unit comes once before any comes again."""
        if self.size == self.served:
            return self.x, None  # a guide with parameters for each unit may be served all of them without saying which
        if len(self.order) < self.size:
            again = torch.randperm(self.served)
            self.order = torch.cat([self.order, again]) if len(self.order) else again
        index, self.order = self.order[: self.size].to(reference(self.x).device), self.order[self.size:]
        return take(self.x, index, self.served), index

    def kl_weight(self, step: int) -> float:
        """Return the weight of KL(q ‖ prior) at a step, which rises to 1 over the warm-up."""
        warm_up = self.options.warm_up
        return min(1.0, step / (warm_up + 1)) if warm_up else 1.0

    def estimate(self, batch: Data, index: Tensor | None, kl_weight: float = 1.0) -> Step:
        """Return an estimate from a view of a minibatch, of the units ``index``."""
        if index is not None:
            self.model.runner.adopt(batch, len(index))
        if self.by_rows and index is not None:
            return rows_bound(self.model, self.guide, batch, index, self.served, self.how)
        return stochastic_bound(self.model, self.guide, batch, index, self.units, self.how, kl_weight)

    def value(self) -> float:
        """Return the bound on the first minibatch of the data, on the same noise for any state; −∞ where it is not finite."""
        index = torch.arange(self.size, device=reference(self.x).device) if self.size < self.served else None
        batch = self.x if index is None else take(self.x, index, self.served)
        with seeded(0), torch.no_grad():
            value = float(self.processes.total(self.estimate(self.view(batch), index).value))
        return value if math.isfinite(value) else -math.inf

    def values(self) -> Tensor:
        """Return the bound on :data:`REPEATS` minibatches and noises, (repeats,), the same for any state."""
        found = []
        with torch.no_grad():
            for repeat in range(REPEATS):
                with seeded(repeat + 1):
                    index = random_units(self.served, self.size) if self.size < self.served else None
                    batch = self.x if index is None else take(self.x, index.to(reference(self.x).device), self.served)
                    found.append(self.processes.total(self.estimate(self.view(batch), index).value))
        return torch.stack(found).double()

    def held_out(self) -> Tensor:
        """Return the ELBO of each held-out unit, (held,), on the same noise each time."""
        assert self.validation is not None, "asked for only with a validation share"
        training = self.model.training
        self.guide.eval()
        self.model.eval()
        with seeded(0), torch.no_grad():
            x = self.view(self.validation)
            q = self.guide.posterior(x)
            if isinstance(q, Enumerated):
                value = enumerated_elbos(self.model, q, x)
            else:
                z, log_q = scored(q, VALIDATION_DRAWS)
                value = (self.model.log_joint(x, z) - log_q).mean(0)
        self.guide.train()
        self.model.train(training)
        return value

    def _held_out_share(self, problem: Problem) -> float:
        """Return the share of units to hold out: as asked; where nobody says, and the run has no given end, one that tells when
        a guide's networks begin to learn units by heart."""
        share, x = self.options.validation, problem.x
        if share is not None or self.options.steps is not None or not self.guide.new_units or self.processes.count > 1:
            return share or 0.0
        units = len(reference(x)) if isinstance(x, Tensor) else self.model.latents(x).units
        size = sum(p.numel() for p in trainable(self.model, self.guide, problem.train_model))
        return min(512, max(20, units // 10)) / units if size > units >= 200 else 0.0
