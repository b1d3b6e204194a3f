"""The protocol of an inference method: its options, what it can fit, and its run.

A method is a subclass of :class:`Method` and one line in :mod:`experiments.inference.registry`. The line also names the
dataclass of the method's options, from which ``fit``, the command line, specs and the documentation read the options.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

from experiments.fits.callbacks import Watch
from experiments.fits.result import Outcome
from experiments.inference.options import Options
from experiments.runtime.memory import work
from experiments.runtime.processes import ALONE, Processes
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.model import Model
from zoo.program.sites.latents import Latents


@dataclass(frozen=True)
class Problem:
    """The problem that a method is given: a guide, the model whose posterior it approximates, and the data.

    Attributes:
        model, guide: the model and the guide; a method moves their parameters in place.
        x: the data; if the method has an option ``view``, the data before any view is drawn.
        train_model: whether θ is fitted: the model has parameters, and the caller did not fix these.
        seed: the seed of all random draws.
        pure: whether the caller declared the program and the guide pure; ``None``: the model and the guide decide.
        processes: the processes that share the units.
        like: the data as the model and the guide see them at first: ``x``, or one view of ``x``.
    """

    model: Model
    guide: BaseGuide
    x: Data
    train_model: bool
    seed: int = 0
    pure: bool | None = None
    processes: Processes = ALONE
    like: Data | None = None

    @cached_property
    def latents(self) -> Latents:
        """The layout of z."""
        return self.model.latents(self.shown)

    @property
    def shown(self) -> Data:
        """The data as the model and the guide see it at first."""
        return self.x if self.like is None else self.like

    @property
    def work(self) -> int:
        """The numbers that one draw's density touches."""
        return work(self.x, self.latents.units, self.latents.size)


OptionsT = TypeVar("OptionsT", bound=Options)


class Method(abc.ABC, Generic[OptionsT]):
    """A method of inference: it moves φ, and θ where that is asked for, to raise a bound on log p(x | θ).

    φ is ``guide.parameters()`` and θ is ``model.parameters()``; a method moves both in place. ``guide.posterior(x)`` is
    q(z | x; φ), a distribution of batch shape (units,) and event shape (d,). ``model.log_joint(x, z)`` is log p(x, z | θ),
    (draws, units), at z (draws, units, d). :func:`experiments.log_weights` gives the ELBO of a model and a guide.
    """

    #: How the method is called in ``fit``, on the command line and in records.
    name: ClassVar[str]
    #: Whether several processes can share the units of a fit.
    shares_units: ClassVar[bool] = False
    #: Whether it climbs from where the guide is: ``fit`` then fits a family first that the guide's contains, begins there, and
    #: runs the method again if it ends lower.
    climbs: ClassVar[bool] = True
    #: Whether it fits guides that have a density; and guides that are known by draws. One that fits the latter alone is given
    #: them with their source fitted; one that fits both fits the source, too.
    fits_density: ClassVar[bool] = True
    fits_draws: ClassVar[bool] = False

    def suits(self, guide: BaseGuide, latents: Latents | None) -> bool:
        """Return whether the method is the one for ``guide`` where nobody says; the first of the registry that suits is taken.

        Args:
            guide: to be fitted.
            latents: the layout of z; ``None`` where the data is not known yet.
        """
        return False

    @abc.abstractmethod
    def misfit(self, problem: Problem) -> str:
        """Return why the method can't fit ``problem``, as a whole error line; empty where it can."""

    @abc.abstractmethod
    def run(self, problem: Problem, options: OptionsT, watch: Watch) -> Outcome:
        """Fit, in at most ``options.limit`` steps.

        It runs with gradients on and torch's generator seeded. Where θ does not move, it is held fixed and the model is in
        evaluation mode; ``fit`` puts model and guide in evaluation mode after.

        Args:
            problem: what is fitted.
            options: of the method.
            watch: is to be called after each step n = 1, 2, …: ``watch.step(n, bound)``, the bound in nats, summed over units.
                With a ``snapshot`` of all that the next step depends on, a fit that is cut off goes on from it.

        Returns:
            the steps taken, the bound where they ended, and whether the method's own rule of convergence was met.

        Raises:
            ZooError: a bound that is not finite at the start, and what else only a run can tell.
        """

    def bound(self, problem: Problem, options: OptionsT) -> str:
        """Return the name of the bound that the method maximises, as figures and records show it."""
        return "ELBO"

    def at_once(self, problem: Problem, options: OptionsT) -> float:
        """Return how many numbers the method works on at once: the number of threads is chosen by it."""
        return problem.work
