"""The guide: a variational distribution q(z | x; φ) over the latents of a model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import Distribution

from guides.amortisation import Amortisation, Free
from guides.families.family import Family, Phi
from zoo.bare import FunctionModel, as_model
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.coordinates import volumes
from zoo.program.run import Program
from zoo.program.sites.latents import Site

#: What is accepted wherever a guide is asked for: one of ours, how one is written, or any Pyro guide.
AnyGuide: TypeAlias = "BaseGuide | str | Callable[..., Any]"


class Reference:
    """Data that all copies of their holder refer to."""

    def __init__(self, x: Data):
        self.x = x

    def __deepcopy__(self, memo: object) -> Reference:
        return self


class BaseGuide(PyroModule):
    """What every guide is: :meth:`posterior`, and from it an ordinary Pyro guide.

    Called on ``x`` it is a Pyro guide for the same model: it samples every latent site under the model's names, so that
    stock ``pyro.infer.SVI``, ``Trace_ELBO``, ``TraceEnum_ELBO`` and ``Predictive`` run on the pair.

    Attributes:
        text: what tables and errors call the guide: how it is written, unless a comparison has named it.
        written: how the guide is written, e.g. ``full_rank:encoder``; empty of a Pyro guide.
        model: the model it is for. Not a submodule: a guide's parameters are φ alone.
        new_units: whether it can serve units that it was not fitted on.
        minibatches: whether it can serve some of the units that it was fitted on.
        learning_rate: the largest one of Adam that it bears where nobody says.
        pure: whether it does the same tensor operations in every run, whatever else Python knows.
        density: whether log q(z | x) can be told; draws alone have none, and so no ELBO.
    """

    pure = True
    density = True
    new_units = True
    minibatches = True
    learning_rate = 1.0
    caches: tuple[str, ...] = ("_fitted",)
    _fitted: Reference | None = None

    def __init__(self, model: Model, text: str):
        super().__init__()
        self.__dict__["model"] = model
        self.text = self.written = text

    @property
    def fitted(self) -> Data | None:
        """The data that the guide was built on, or last fitted to; ``None`` where nobody said. Copies refer to the same."""
        return None if self._fitted is None else self._fitted.x

    def fit_to(self, x: Data) -> None:
        """Remember that the guide is fitted to ``x``: :func:`experiments.predict` takes the fitted rows from there."""
        self.__dict__["_fitted"] = Reference(x)

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        """Return q(z | x; φ), a distribution over each unit's latent vector.

        Args:
            x: the data, or some units of it.
            index: for a minibatch, which of the fitted units these are.

        Returns:
            batch shape (units,), event shape (d,), in the model's unconstrained coordinates.

        Raises:
            ZooError: a guide with its own φ for each unit meets another number of units.
        """
        raise NotImplementedError("a guide says what its posterior is")

    def purity(self) -> str:
        """Return why the guide is not known to be pure; empty where it is."""
        return "" if self.pure else f"guide '{self.text}' is not declared pure"

    def forward(self, x: Data) -> None:
        q: Any = self.posterior(x)
        latents = self.model.latents(x)
        if isinstance(q, Enumerated) and len(latents.sites) == 1 and latents.sites[0].size == 1:
            return _sample_discrete(q, latents.sites[0])
        z = pyro.sample("_z", q.to_event(1), infer={"is_auxiliary": True})
        with poutine.block():
            values = self.model.constrain(x, z[None])
            volume = volumes(self.model.runner, x, z)
        plates: dict[str, pyro.plate] = {}
        for site in latents.sites:
            log_density = -volume[site.name] if site.name in volume else 0.0
            with ExitStack() as stack:
                _enter_plates(stack, site, plates)
                value = values[site.name][0]
                pyro.sample(site.name, dist.Delta(value, log_density=log_density, event_dim=site.event_dim))

    @property
    def size(self) -> int:
        """How many numbers φ holds."""
        return sum(p.numel() for p in self.parameters())

    def check_size(self, x: Data, size: int, index: Tensor | None = None) -> None:
        """Raise a :class:`ZooError` unless the units of ``x`` have ``size`` coordinates; those of a minibatch have."""
        if index is None and (needed := self.model.latents(x).size) != size:
            raise ZooError(
                f"expected data whose units have the {size} coordinates that '{self.text}' was built for; got {needed}; build "
                "a guide on this x")

    def extra_repr(self) -> str:
        return f"{self.text}, model={self.model.label}"


def paired(model: Model | Program, guide: BaseGuide | str | None) -> Model:
    """Return the model that ``guide`` was built for, of which ``model`` must be it or its bare program.

    A guide, and a program's fitted θ, belong to one model: another wrapping of the same program has its own θ.

    Raises:
        ZooError: if the guide was built for another model.
    """
    if not isinstance(guide, BaseGuide):
        return as_model(model)
    own: Model = guide.model
    if model is own or (isinstance(own, FunctionModel) and own.program == model):
        return own
    raise ZooError(
        f"expected a guide of this model; got '{guide.text}' built for another {own.label}; build it anew, or pass guide.model")


class Guide(BaseGuide):
    """A variational family with an amortisation: q(z | x; φ), φ = amortisation(x).

    Args:
        model: the model.
        family: shapes of φ, and how φ becomes a distribution.
        amortisation: how x becomes φ.
        text: how the guide is written.

    Use :func:`guides.build` to make one from its written form.

    >>> import zoo, guides
    >>> x = zoo.dataset("wine", standardise=True).x
    >>> guide = guides.build("mean_field", zoo.build("ppca", x), x)
    >>> guide.posterior(x).batch_shape, guide.posterior(x).event_shape
    (torch.Size([178]), torch.Size([2]))
    """

    def __init__(self, model: Model, family: Family, amortisation: Amortisation, text: str):
        super().__init__(model, text)
        self.family, self.amortisation = family, amortisation
        self.new_units, self.learning_rate, self.pure = amortisation.new_units, family.learning_rate, amortisation.pure

    def posterior(self, x: Data, index: Tensor | None = None) -> Distribution:
        q = self.family.distribution(self.phi(x, index))
        self.check_size(x, q.event_shape[0], index)
        return q

    @property
    def own_phi(self) -> bool:
        """Whether each unit, or row, has a φ of its own and no network gives it."""
        return isinstance(self.amortisation, Free)

    def phi(self, x: Data, index: Tensor | None = None) -> Phi:
        """Return the family's parameters for the units of ``x``, (units, *shape) each."""
        units = self.model.latents(x).units if index is None else len(index)
        parameters: Phi = self.amortisation(x, units, index)
        return parameters


def _enter_plates(stack: ExitStack, site: Site, plates: dict[str, pyro.plate]) -> None:
    """Enter the plates of ``site``; sites that share one enter the same object, as Pyro asks."""
    batch = site.shape[: len(site.shape) - site.event_dim]
    for dim in range(-1, -len(batch) - 1, -1):
        name = site.plates[dim]
        if name is not None:
            if name not in plates:
                plates[name] = pyro.plate(name, batch[dim], dim=dim)
            stack.enter_context(plates[name])


def _sample_discrete(q: Enumerated, site: Site) -> None:
    """Sample one discrete site from its own distribution, marked for enumeration, as TraceEnum_ELBO wants it."""
    batch = site.shape[: len(site.shape) - site.event_dim]
    logits = q.logits.reshape(*batch, -1)
    fn = dist.Categorical(logits=logits)
    if site.values is not None and site.values.is_floating_point():
        if not torch.equal(site.values.flatten(), torch.arange(2.0).to(site.values)):
            raise ZooError(
                f"expected values 0 … K − 1 at discrete site '{site.name}' for Pyro's own inference; got others; "
                "use experiments.fit")
        fn = dist.Bernoulli(logits=logits[..., 1] - logits[..., 0])
    with ExitStack() as stack:
        _enter_plates(stack, site, {})
        pyro.sample(site.name, fn, infer={"enumerate": "parallel"})
