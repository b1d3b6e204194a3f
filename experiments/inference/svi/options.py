"""The options of stochastic variational inference, and the pace of its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.inference.options import Options, option
from zoo.errors import ZooError, check_number, chosen

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.inference.svi.objectives import Objective

#: Learning-rate schedules: the factor at a share of the run, from 0 to 1.
SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)),
    "linear": lambda share: 1 - 0.99 * share,
    "constant": lambda share: 1.0,
}


class Pace:
    """The factor of the learning rate after each step of a run, whose last step may be unknown until the run has converged.

    Args:
        schedule: a key of :data:`SCHEDULES`.
        steps: the number of steps of the run; 0: the learning rate stays constant until :meth:`fall` is called.
    """

    def __init__(self, schedule: str, steps: int):
        self.factor, self.peak, self.begin, self.end = SCHEDULES[schedule], 1.0, 0, steps

    def __call__(self, step: int) -> float:
        if not self.end:
            return self.peak
        return self.peak * self.factor(min(1.0, max(0, step - self.begin) / max(1, self.end - self.begin)))

    @property
    def falling(self) -> bool:
        """Whether the rate falls towards a known end."""
        return bool(self.end)

    @property
    def middle(self) -> int:
        """The step after which the rate has fallen to half."""
        return (self.begin + self.end) // 2

    def fall(self, begin: int, end: int) -> None:
        """Let the rate fall from step ``begin`` to step ``end``."""
        self.begin, self.end = begin, end

    def climb(self) -> None:
        """Go on at a quarter of the rate, without a known end."""
        self.peak, self.begin, self.end = self.peak / 4, 0, 0

    @property
    def numbers(self) -> list[float]:
        """The numbers of the pace that a checkpoint keeps."""
        return [self.peak, self.begin, self.end]

    @numbers.setter
    def numbers(self, values: Sequence[float]) -> None:
        self.peak, self.begin, self.end = values[0], int(values[1]), int(values[2])


@dataclass(frozen=True, kw_only=True)
class SVIOptions(Options):
    """The options of ``svi``. ``None`` leaves a choice to the model or to the number of units.

    Attributes:
        steps: the largest number of steps of Adam; ``None``: the fit runs until it has converged, for at most 50,000 steps.
        draws: K, the number of draws of z per unit and step; ``None``: 16 for one unit, 4 for many units, 1 for an encoder on
            batches of 100 or more. Guides over discrete latents are summed exactly.
        batch_size: the number of units in a minibatch; ``None``: all units, but at most 256. Of a data set that is one unit:
            the number of rows of the plate that holds the observations; ``None``: all rows, but at most 1,024.
        learning_rate: the learning rate of Adam at the first step; ``None``: that of the model, or of the guide if lower.
        schedule: a key of :data:`SCHEDULES`. The rate follows the schedule over the run or, if ``steps`` is left out, after the
            ascent has converged at the constant rate.
        objective: ``elbo``, ``iwae`` or ``renyi(alpha)``; the bound is on as many draws as a step takes.
        estimator: the gradient estimator, ``reparameterised``, ``stl`` or ``dreg``.
        clip: the largest norm of the gradient, in nats per unit; ``None``: no limit.
        warm_up: the number of steps over which the weight of KL(q ‖ prior) rises from 0 to 1.
        validation: the share of the units that are held out. Their ELBO decides when the run stops early, and which state is
            the best. ``None``: no units are held out, with one exception: if ``steps`` is left out, there are 200 or more
            units, and the guide serves new units and has, with θ, more parameters than there are units, then a tenth of the
            units (20 to 512 units) is held out.
        patience: the number of blocks without a better held-out ELBO after which the run stops. A block is a fiftieth of the
            run, or 100 steps if ``steps`` is left out.
        view: a function that draws a fresh view of a minibatch, e.g. its binarisation.
        compile: compile the recorded operations of a step with PyTorch's compiler, Inductor. The compiler needs a C++ compiler
            and takes seconds to minutes, once: the compiled code is kept on disk. The program and the guide must be pure.

    Raises:
        ZooError: a number out of its range, or an unknown word.
    """

    most = 50_000

    draws: int | None = option(
        None, "Number of draws of z per unit: the same draws for the whole fit in fixed_draws, new draws in each step in svi.",
        whole=True, least=1, key="train_draws")
    batch_size: int | None = option(None, "Number of units in a minibatch, or of rows that share latents.", whole=True, least=1)
    learning_rate: float | None = option(None, "Learning rate of Adam at the first step.")
    objective: str = option("elbo", "Bound that the fit maximises: elbo, iwae or renyi(alpha).")
    estimator: str = option("reparameterised", "Gradient estimator: reparameterised, stl or dreg.")
    schedule: str = option("cosine", "Schedule of the learning rate: cosine, linear or constant.")
    clip: float | None = option(None, "Largest norm of the gradient, in nats per unit; larger gradients are scaled down.")
    warm_up: int = option(0, "Number of steps over which the weight of the KL term rises to 1.", whole=True, least=0)
    validation: float | None = option(
        None, "Share of the units that are held out; the fit stops early on the ELBO of these units.")
    patience: int = option(
        10, "Number of blocks without a better held-out ELBO after which the fit stops; a block is a fiftieth of the run, or "
        "100 steps if steps is left out.", whole=True, least=1)
    compile: bool = option(False, "Compile the recorded steps with PyTorch's compiler; needs a C++ compiler.")
    view: Callable[[Tensor], Tensor] | None = option(None, "", hidden=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_numbers()
        self._check_words()
        if self.warm_up >= self.limit:
            raise ZooError(
                f"expected warm_up to end before the run's {self.limit} steps; got {self.warm_up}; lower it, or raise steps")
        if self.warm_up and self.bound.alpha != 1:
            raise ZooError(f"expected objective elbo with warm_up; got '{self.objective}'; leave one of them out")

    def _check_numbers(self) -> None:
        """Raise a :class:`ZooError` for a number out of its range."""
        for name in ("learning_rate", "clip", "validation"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        if self.learning_rate is not None and not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ZooError(f"expected a positive learning rate; got {self.learning_rate}; the default is the model's own")
        if self.clip is not None and not self.clip > 0:
            raise ZooError(f"expected clip above 0; got {self.clip}; leave it out for no limit")
        if self.validation is not None and not 0 <= self.validation < 1:
            raise ZooError(f"expected validation as a share from 0 up to 1; got {self.validation}; e.g. 0.1")

    def _check_words(self) -> None:
        """Raise a :class:`ZooError` for a word that is none of those there are, or a view that is no function."""
        if not isinstance(self.objective, str):
            raise ZooError(f"expected objective as text; got {self.objective!r}; e.g. 'iwae'")
        if self.view is not None and not callable(self.view):
            raise ZooError(f"expected view as a function of a minibatch; got {self.view!r}; pass one")
        if (self.objective, self.estimator) != ("elbo", "reparameterised"):  # a check of the defaults would import torch
            from experiments.inference.svi.objectives import check_estimator

            check_estimator(self.estimator, self.bound)
        chosen(SCHEDULES, self.schedule, "schedule")

    @property
    def bound(self) -> Objective:
        """The bound that is maximised."""
        from experiments.inference.svi.objectives import Objective

        return Objective.parse(self.objective)
