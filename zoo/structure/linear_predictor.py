"""Linear predictors: programs in which each observation depends on the latents through one number, affine in the latents.

For p(y_i | η_i) with η = b + A z, as in a generalised linear model with known dispersion, the mean log-likelihood under a
normal q(z) is one integral per observation, however many latents there are. The tensor operations between z and the parameters
prove that a program has this form, see :mod:`zoo.structure.affine`: a program that looks affine at some points need not be
affine. A, b and log p(y_i | η_i) are found by running the program, which stays the only definition of the model.

Source: McCullagh and Nelder (1989), Generalized linear models, §2.2, https://doi.org/10.1007/978-1-4899-3242-6; Challis and
Barber (2013), Gaussian Kullback–Leibler approximate inference, https://jmlr.org/papers/v14/challis13a.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from zoo.data import Data, Identity, reference
from zoo.program.density import prior_of
from zoo.program.recording.record import alike
from zoo.program.recording.settings import Settings
from zoo.program.run import run, seeded
from zoo.program.sites.latents import Scheme, is_deterministic
from zoo.program.sites.substitution import Substitute
from zoo.structure.affine import Dependent, Following

if TYPE_CHECKING:
    from zoo.model import Model

#: Numbers that A may have.
MOST = 2**26
#: What the observations' and the latents' log-probabilities are called among the parameters of the observations.
LIKELIHOOD, PRIOR = "log p(x | z)", "log p(z)"
#: Points where the program is held against the predictor that is proved for it, besides the origin.
GUARDS = 2
#: Numbers that A's columns may have that are found in one run.
AT_ONCE = 2**22
#: Bytes of a matrix that a model may hold on to, and what its runner keeps the predictor under.
KEPT, NAME = 2**26, "linear_predictor"
#: What may go wrong where a program can't be followed, or a distribution is not made by its parameters' names.
FAILURES = (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, KeyError)


@dataclass(frozen=True, eq=False)
class Predictor:
    """The linear predictor η = b + A z of the n observations of a program of one unit, and the log-likelihoods given η.

    Attributes:
        offset: b, (n,).
        matrix: A, (n, d); its columns lie one after the other in memory, so that products over observations are quick.
        name: the name of η among the parameters of the observations' distribution, e.g. ``logits``.
        kind: the class of the observations' distribution.
        others: the other parameters of this distribution, (n,) each.
        value: the observations, (n,).
        checked: results of the program at one point: η, the other parameters, log p(x | z) and log p(z).
    """

    offset: Tensor
    matrix: Tensor
    name: str
    kind: type
    others: Mapping[str, Tensor]
    value: Tensor
    checked: Mapping[str, Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        """Return η, (draws, n), at z (draws, d)."""
        return self.offset + z @ self.matrix.mT

    def log_prob(self, eta: Tensor, rows: slice | Tensor = slice(None)) -> Tensor:
        """Return log p(y_i | η_i) of the observations ``rows``, (…, rows), in nats."""
        others = {name: value[rows] for name, value in self.others.items()}
        found: Tensor = self.kind(**others, **{self.name: eta}, validate_args=False).log_prob(self.value[rows])
        return found

    def holds(self, model: Model, x: Data) -> bool:
        """Return whether the program still is what was found, its prior included: one run of it at a point says the same."""
        try:
            with torch.no_grad(), seeded(0):
                seen = _seen(model, x, _points(model, x)[:1])
        except FAILURES:
            return False
        return seen.keys() == self.checked.keys() and all(alike(value, self.checked[name]) for name, value in seen.items())


def linear_predictor(model: Model, x: Data) -> Predictor | None:
    """Return the linear predictor that ``model`` is proved to have on ``x``, ``None`` where it has none: see :func:`find`.

    It is kept for the next time, unless it is large, and then held against the program at one point.
    """
    key = Identity.of(x)
    before, settings, known = model.runner.kept.get(NAME) or (None, None, None)
    if before != key or not (settings and settings.hold()) or (known is not None and not known.holds(model, x)):
        known = find(model, x)
        fits = known is None or known.matrix.nbytes <= KEPT
        model.runner.kept[NAME] = (key, Settings([model]), known) if fits else None
    return known


def find(model: Model, x: Data) -> Predictor | None:
    """Return the linear predictor of ``model`` on ``x``; ``None`` where it has none.

    It has one where the data set is one unit with continuous latents and one observed site, of a univariate distribution
    made by its parameters alone, one of which is affine in z in unconstrained coordinates while the others stay.

    >>> import pyro, pyro.distributions as dist
    >>> from zoo import as_model
    >>> def line(x):
    ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("rows", len(x)):
    ...         pyro.sample("x", dist.StudentT(4.0, 1.0 + slope * torch.arange(3.0)), obs=x)
    >>> found = find(as_model(line), torch.zeros(3))
    >>> found.name, found.offset, found.matrix.mT
    ('loc', tensor([1., 1., 1.]), tensor([[0., 1., 2.]]))
    """
    latents = model.latents(x)
    if latents.unit is not None or latents.discrete or latents.summed or not latents.size or len(latents.observed) != 1:
        return None
    if latents.observed[0].shape.numel() * latents.size > MOST:
        return None
    if model.purity():
        return None
    try:
        with torch.no_grad(), seeded(0):
            proof = _proved(model, x)
            return _found(model, x, *proof) if proof is not None else None
    except FAILURES:
        return None


def _proved(model: Model, x: Data) -> tuple[str, type] | None:
    """Return the parameter of the observed site that is affine in z and by which alone the site depends on z; and its class.

    The run's log-likelihood, with what scales and masks it, must not depend on z once that parameter is held.
    """
    found: list[tuple[str, type]] = []

    def one(row: Tensor) -> Tensor:
        z = Dependent(row, affine=True)
        with Following() as following:
            site = _observed_site(run(model.runner.program, x, Substitute(z, Scheme()), density=False))
            base = _base(site["fn"])
            moving = {name: value for name, value in _parameters(base).items() if isinstance(value, Dependent)}
            vars(base).update({name: value.value for name, value in moving.items()})
            held = scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"])
        if len(moving) == 1 and not isinstance(held, Dependent) and not following.reason:
            found.extend((name, type(base)) for name, value in moving.items() if value.affine)
        return row

    model.runner.over_draws(one, _points(model, x)[:1])
    return found[0] if found else None


def _found(model: Model, x: Data, name: str, kind: type) -> Predictor | None:
    """Return the predictor, whose parameter ``name`` is proved affine, if the program says the same as it does."""
    points, shape = _points(model, x), model.latents(x).observed[0].shape
    seen = _seen(model, x, points)
    checked = {key: values[:1] for key, values in seen.items()}
    total, _, eta = seen.pop(LIKELIHOOD), seen.pop(PRIOR), seen.pop(name)
    others, value = {key: values[0] for key, values in seen.items()}, _value(model, x, points[0])
    found = Predictor(eta[-1], _matrix(model, x, name), name, kind, others, value.expand(shape).reshape(-1), checked)
    same = alike(total[:-1], found.log_prob(eta[:-1]).sum(1)) and bool(total[:-1].isfinite().all())
    return found if same and all(alike(at, found(z)[0]) for at, z in zip(eta, points, strict=True)) else None


def _matrix(model: Model, x: Data, name: str) -> Tensor:
    """Return A, (n, d), by derivatives: differences from b would cost the digits of a large b.

    A's columns are the derivatives of Aᵀu in u, and Aᵀu is the gradient of ηᵀu in z. PyTorch's forward derivatives would give
    them, too, but take half a second to load.
    """
    latents, like = model.latents(x), reference(x)
    columns: list[Tensor] = []
    for some in torch.eye(latents.size).to(like)[:, None].split(max(1, AT_ONCE // latents.observed[0].shape.numel())):
        with torch.enable_grad():
            z = torch.zeros_like(some, requires_grad=True)
            eta = _seen(model, x, z)[name]
            u = torch.zeros_like(eta, requires_grad=True)
            [back] = torch.autograd.grad((eta * u).sum(), [z], create_graph=True)
            columns += torch.autograd.grad((back * some).sum(), [u])
    return torch.cat(columns).mT


def _points(model: Model, x: Data) -> Tensor:
    """Return points (points, 1, d) at random, the same each time, and the origin."""
    size, like = model.latents(x).size, reference(x)
    points = torch.randn(GUARDS, 1, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([points, torch.zeros_like(points[:1])]).to(like)


def _base(fn: Any) -> Any:
    """Return the distribution of single numbers under declarations of event dimensions."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn


def _parameters(fn: Any) -> dict[str, Tensor]:
    """Return the parameters that a distribution of single numbers was made of, by name; none of another."""
    if fn.event_shape or getattr(fn, "arg_constraints", None) is None:
        return {}
    return {name: value for name in fn.arg_constraints if isinstance(value := vars(fn).get(name), Tensor)}


def _value(model: Model, x: Data, z: Tensor) -> Tensor:
    """Return the value of the one observed site, at any z (1, d)."""
    values: list[Tensor] = []

    def one(row: Tensor) -> Tensor:
        values.append(_observed_site(run(model.runner.program, x, Substitute(row, Scheme()), density=False))["value"])
        return row

    model.runner.over_draws(one, z[None])
    return values[0]


def _seen(model: Model, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Return the parameters of the observed site, (draws, n) each, log p(x | z) and log p(z), (draws,), at z (draws, 1, d)."""
    shape = model.latents(x).observed[0].shape

    def one(row: Tensor) -> dict[str, Tensor]:
        substitute = Substitute(row, Scheme())
        sites = run(model.runner.program, x, substitute)
        site = _observed_site(sites)
        parameters = {name: value.expand(shape).reshape(-1) for name, value in _parameters(_base(site["fn"])).items()}
        return {**parameters, LIKELIHOOD: site["log_prob"].sum(), PRIOR: prior_of(sites, substitute)[0]}

    found: dict[str, Tensor] = model.runner.over_draws(one, z)
    return found


def _observed_site(sites: Mapping[str, Any]) -> Any:
    [site] = [site for site in sites.values() if site["is_observed"] and not is_deterministic(site)]
    return site
