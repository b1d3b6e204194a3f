"""Linear predictors: programs whose observations hang on the latents through one number each, affine in them.

Of p(y_i | η_i) with η = b + A z, as of a generalised linear model with known dispersion, the mean log-likelihood under a
normal q(z) is one integral an observation, however many latents there are. Whether a program is of that kind, and A, b and
log p(y_i | η_i), are found by running it: it stays the only definition.

Source: McCullagh and Nelder (1989), Generalized linear models, §2.2, https://doi.org/10.1007/978-1-4899-3242-6; Challis and
Barber (2013), Gaussian Kullback–Leibler approximate inference, https://jmlr.org/papers/v14/challis13a.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data import Data, reference
from zoo.latents import Substitute, is_deterministic
from zoo.program import prior_of, run, seeded
from zoo.recording import alike

if TYPE_CHECKING:
    from zoo.model import Model

#: Numbers that A may have.
MOST = 2**26
#: What the observations' and the latents' log-probabilities are called among the parameters of the observations.
LIKELIHOOD, PRIOR = "log p(x | z)", "log p(z)"
#: How far from the origin it is tried whether a parameter is affine: near, where densities are compared, too; far off, where
#: one that is clipped shows; and at the origin itself.
FAR = 300.0
SPREADS = (1.0, 1.0, FAR, 0.0)
#: Numbers that A's columns may have that are found in one run.
AT_ONCE = 2**22
#: What may go wrong where a distribution is not made by its parameters' names, or a program does not bear such points.
FAILURES = (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError, KeyError)


@dataclass(frozen=True, eq=False)
class Predictor:
    """η = b + A z of the n observations of a program of one unit, and what each one's log-likelihood makes of it.

    Attributes:
        offset: b, (n,).
        matrix: A, (n, d); its columns lie one after the other in memory, so that products over observations are quick.
        name: of η among the parameters of the observations' distribution, e.g. ``logits``.
        kind: that distribution's class.
        others: its other parameters, (n,) each.
        value: the observations, (n,).
        checked: what the program said at one point: η and the other parameters, log p(x | z) and log p(z).
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
    if latents.unit is not None or latents.discrete or not latents.size or len(latents.observed) != 1:
        return None
    if latents.observed[0].shape.numel() * latents.size > MOST:
        return None
    try:
        with torch.no_grad(), seeded(0):
            return _found(model, x)
    except FAILURES:
        return None


def _found(model: Model, x: Data) -> Predictor | None:
    points, shape = _points(model, x), model.latents(x).observed[0].shape
    fn, value = _observed(model, x, points[0])
    if not _parameters(fn):
        return None
    seen = _seen(model, x, points)
    if not model._vectorised:  # one run a column would take longer than it saves
        return None
    checked = {name: values[:1] for name, values in seen.items()}
    total, _ = seen.pop(LIKELIHOOD), seen.pop(PRIOR)
    moving = [name for name, values in seen.items() if not all(alike(values[0], each) for each in values[1:])]
    if len(moving) != 1:
        return None
    eta = seen.pop(moving[0])
    offset, columns = eta[-1], torch.eye(points.shape[2]).to(points)[:, None].split(max(1, AT_ONCE // eta.shape[1]))
    matrix = torch.cat([_seen(model, x, some)[moving[0]] - offset for some in columns]).mT
    others = {name: values[0] for name, values in seen.items()}
    found = Predictor(offset, matrix, moving[0], type(fn), others, value.expand(shape).reshape(-1), checked)
    near = slice(0, SPREADS.index(FAR))
    same = alike(total[near], found.log_prob(eta[near]).sum(1)) and bool(total[near].isfinite().all())
    return found if same and all(alike(at, found(z)[0]) for at, z in zip(eta, points, strict=True)) else None


def _points(model: Model, x: Data) -> Tensor:
    """Return points (points, 1, d) at random, the same each time, and the origin."""
    size, like = model.latents(x).size, reference(x)
    points = torch.randn(len(SPREADS), 1, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (points * torch.tensor(SPREADS, dtype=torch.float64)[:, None, None]).to(like)


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


def _observed(model: Model, x: Data, z: Tensor) -> tuple[Any, Tensor]:
    """Return the distribution and the value of the one observed site at z (1, d)."""
    sites: list[Any] = []

    def one(row: Tensor) -> Tensor:
        sites.append(_observed_site(run(model._program, x, Substitute(row, None))))
        return row

    model._over_draws(one, z[None])
    return _base(sites[0]["fn"]), sites[0]["value"]


def _seen(model: Model, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Return the parameters of the observed site, (draws, n) each, log p(x | z) and log p(z), (draws,), at z (draws, 1, d)."""
    shape = model.latents(x).observed[0].shape

    def one(row: Tensor) -> dict[str, Tensor]:
        substitute = Substitute(row, None)
        sites = run(model._program, x, substitute)
        site = _observed_site(sites)
        parameters = {name: value.expand(shape).reshape(-1) for name, value in _parameters(_base(site["fn"])).items()}
        return {**parameters, LIKELIHOOD: site["log_prob"].sum(), PRIOR: prior_of(sites, substitute)[0]}

    found: dict[str, Tensor] = model._over_draws(one, z)
    return found


def _observed_site(sites: Mapping[str, Any]) -> Any:
    [site] = [site for site in sites.values() if site["is_observed"] and not is_deterministic(site)]
    return site
