"""Gaussian mixtures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from sklearn.cluster import KMeans
from torch import Tensor
from torch.distributions import Distribution, constraints

from zoo.data import Data, as_rows, check_table, subsample_rows
from zoo.distributions.enumerated import Enumerated
from zoo.errors import ZooError, ZooWarning, chosen
from zoo.model import Model
from zoo.structure.learned import Form
from zoo.structure.quadratic import Moments

#: The smallest eigenvalue of a component's covariance, in units of the columns' variances.
FLOOR = 1e-6
#: How many robust deviations a value counts as far from its column's median, at most, where a column's variance is asked.
FAR = 10.0


@dataclass(frozen=True)
class Covariance:
    """A covariance structure: what θ holds, the Cholesky factors it stands for, and its M-step.

    ``expand(scale, k, d)`` gives the (k, d, d) factors; ``estimate(scatter, weights)`` the structure's maximiser,
    (k, d, d), from the components' scatter matrices (k, d, d) and weights (k,); ``reduce(factors)`` is what θ keeps, and
    ``forms`` are what a reader is shown of it.
    """

    constraint: constraints.Constraint
    expand: Callable[[Tensor, int, int], Tensor]
    estimate: Callable[[Tensor, Tensor], Tensor]
    reduce: Callable[[Tensor], Tensor]
    forms: tuple[Form, ...]


def _pool(scatter: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("k,kij->ij", weights / weights.sum(), scatter).expand_as(scatter)


def _diagonal(scatter: Tensor, weights: Tensor) -> Tensor:
    return torch.diag_embed(scatter.diagonal(dim1=-2, dim2=-1))


def _isotropic(scatter: Tensor, weights: Tensor) -> Tensor:
    mean = scatter.diagonal(dim1=-2, dim2=-1).mean(-1)
    return mean[:, None, None] * torch.eye(scatter.shape[-1]).to(scatter)


def _spread(*before: str) -> tuple[Form, ...]:
    """Return the forms of Cholesky factors: the columns' standard deviations, and the covariances, which alone say all."""
    return (
        Form("sds", (*before, "column"), lambda factors: factors.square().sum(-1).sqrt(), None),
        Form("covariances", (*before, "column", "other_column"), lambda factors: factors @ factors.mT, torch.linalg.cholesky))


COVARIANCES: Mapping[str, Covariance] = {
    "full": Covariance(
        constraints.lower_cholesky, lambda s, k, d: s, lambda scatter, weights: scatter, lambda factors: factors,
        _spread("component")),
    "tied": Covariance(
        constraints.lower_cholesky, lambda s, k, d: s.expand(k, d, d), _pool, lambda factors: factors[0], _spread()),
    "diag": Covariance(
        constraints.positive, lambda s, k, d: torch.diag_embed(s), _diagonal,
        lambda factors: factors.diagonal(dim1=-2, dim2=-1), (Form("sds", ("component", "column")),)),
    "spherical": Covariance(
        constraints.positive, lambda s, k, d: torch.diag_embed(s[:, None].expand(k, d)), _isotropic,
        lambda factors: factors[:, 0, 0], (Form("sds", ("component",)),)),
}


class GMM(Model):
    """Gaussian mixture: z_i ~ Categorical(π), x_i | z_i = k ~ N(μ_k, Σ_k).

    Each row is a unit. The posterior p(z | x) (the responsibilities) and the log evidence
    log Σ_k π_k N(x | μ_k, Σ_k) follow by enumeration; the M-step is closed.

    θ: ``weights`` (K,), ``means`` (K, D), ``scale`` (the Cholesky factors Σ = L Lᵀ, or the standard deviations).
    The M-step maximises under Σ_k ⪰ 1e-6 diag(column variances), so no component can collapse onto a point; a
    :class:`zoo.ZooWarning` says when the bound is met. Outliers count little in these variances: see :func:`robust_variance`.
    It is the exact constrained maximum: EM still never lowers the likelihood. But for one step: a component that no row
    supports is re-seeded around the row that the mixture explains worst, with a warning.

    Args:
        x: (rows, D). Sizes the model and starts it, by k-means on the standardised columns (torch's generator); of more than
            32,768 rows, on so many.
        components: K.
        covariance: ``full``, ``tied``, ``diag`` or ``spherical``.

    Raises:
        ZooError: fewer distinct rows than components, a constant column, an unknown covariance.

    Source: Bishop (2006), Pattern Recognition and Machine Learning, §9.2;
    https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/

    >>> x = torch.cat([torch.randn(50, 2, dtype=torch.double), torch.randn(50, 2, dtype=torch.double) + 6])
    >>> model = GMM(x, components=2)
    >>> model.posterior(x).probs.shape, model.log_evidence(x).shape
    (torch.Size([100, 2]), torch.Size([100]))
    """

    pure = True
    dims = {"x": ("column",), "weights": ("component",), "means": ("component", "column")}
    quadratic = True
    weights: Any
    scale: Any
    floor: Tensor

    def __init__(self, x: Data, components: int = 2, covariance: str = "full"):
        super().__init__()
        structure = chosen(COVARIANCES, covariance, "covariance")
        x = check_table(x, self.label)
        rows = as_rows(subsample_rows(x))
        labels = cluster(rows, components)
        self.components, self.covariance = components, structure
        self._name = covariance
        self.register_buffer("floor", FLOOR * robust_variance(rows))
        found = Moments.of(rows, torch.nn.functional.one_hot(labels, components).to(x))
        self.weights = PyroParam(found.count / len(rows), constraints.simplex)
        self.means = torch.nn.Parameter(found.mean)
        self.scale = PyroParam(self._scale(found.covariance, found.count), self.covariance.constraint)

    def forward(self, x: Tensor) -> None:
        scale_tril = self.covariance.expand(self.scale, *self.means.shape)
        weights, means = self.weights, self.means
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.MultivariateNormal(means[z], scale_tril=scale_tril[z]), obs=x)

    def maximise(self, x: Data, q: Distribution) -> None:
        if not isinstance(q, Enumerated):
            raise ZooError(f"expected q over the {self.components} components; got {type(q).__name__}; use a discrete guide")
        x = check_table(x, self.label)
        with torch.no_grad():
            self.maximise_moments(Moments.of(x, self._reseed(x, q.probs)))

    def maximise_moments(self, moments: Moments) -> None:
        with torch.no_grad():
            self.weights = moments.count / moments.count.sum()
            self.means.copy_(moments.mean)
            self.scale = self._scale(moments.covariance, moments.count)

    def confine(self) -> None:
        with torch.no_grad():
            factors = self.covariance.expand(self.scale, *self.means.shape)
            self.scale = self._scale(factors @ factors.mT, self.weights, quiet=True)

    def _scale(self, scatter: Tensor, weights: Tensor, quiet: bool = False) -> Tensor:
        """Return θ's scale at the maximiser under Σ_k ⪰ diag(floor): eigenvalues clamped in the floor's metric."""
        covariance = self.covariance.estimate(scatter, weights)
        # One variance for all columns has one floor for all, or the floor would break the structure.
        root = (self.floor.max().expand_as(self.floor) if self._name == "spherical" else self.floor).sqrt()
        metric = covariance / (root[:, None] * root)
        values, vectors = torch.linalg.eigh(metric)
        if bool((values < 1).any()):
            if not quiet:
                which = (values < 1).any(-1).nonzero().flatten().tolist()
                warnings.warn(ZooWarning(
                    f"mixture component(s) {', '.join(map(str, which))} collapsed onto few rows: covariance held at "
                    f"{FLOOR:g} of the columns' variances; use fewer components or a simpler covariance"), stacklevel=2)
            metric = vectors @ torch.diag_embed(values.clamp(min=1.0)) @ vectors.mT
            covariance = metric * (root[:, None] * root)
        return self.covariance.reduce(torch.linalg.cholesky(covariance))

    def _reseed(self, x: Tensor, r: Tensor) -> Tensor:
        """Give each component that no row supports up to half of the rows around the one that the mixture explains worst.

        A row s standard deviations away (root mean square over columns) gives ½ exp(−s²/2): one row alone would make the
        component collapse.
        """
        empty = (r.sum(0) < 1e-8).nonzero().flatten()
        if not len(empty):
            return r
        warnings.warn(ZooWarning(
            f"mixture component(s) {', '.join(map(str, empty.tolist()))} lost all rows and were re-seeded around the rows "
            "explained worst; use fewer components if this repeats"), stacklevel=2)
        worst = x[self.log_evidence(x).argsort()[: len(empty)]]
        scaled = (x[:, None] - worst) / (self.floor / FLOOR).sqrt()
        share = 0.5 * (-0.5 * scaled.square().mean(-1)).exp() / len(empty)
        r = r * (1 - share.sum(1, keepdim=True))
        r[:, empty] += share
        return r

    def forms(self) -> Mapping[str, Sequence[Form]]:
        return {"scale": self.covariance.forms}

    def extra_repr(self) -> str:
        return f"components={self.components}, covariance={self._name}, columns={self.means.shape[1]}"


def cluster(x: Tensor, components: int) -> Tensor:
    """Return k-means labels (rows,) of the standardised columns of ``x``, every label used.

    Raises:
        ZooError: if ``x`` has fewer distinct rows than components.
    """
    check_components(x, components)
    scaled: Any = ((x - x.mean(0)) / robust_variance(x).sqrt()).detach().cpu().numpy()
    seed = int(torch.randint(2**31 - 1, ()))
    labels = KMeans(components, n_init=4, random_state=seed).fit_predict(scaled)
    return torch.as_tensor(labels, dtype=torch.long, device=x.device)


def robust_variance(x: Tensor) -> Tensor:
    """Return the columns' variances, values far from the median counted as :data:`FAR` robust deviations away.

    Of columns without such values these are the variances themselves. One wild value would else set the scale of all rows: of
    200 rows of variance 1, one at 10⁵ makes it 5 · 10⁷. The robust deviation is 1.48 times the median distance from the median,
    of the values that are not the median itself.

    >>> x = torch.cat([torch.linspace(-1, 1, 101), torch.tensor([99_999.0])])[:, None]
    >>> x.var(0) > 9e7, robust_variance(x) < 1.5
    (tensor([True]), tensor([True]))
    """
    middle = x.median(0).values
    distance = (x - middle).abs()
    reach = FAR * 1.4826 * distance.where(distance > 0, torch.nan).nanmedian(0).values
    low, high = middle - reach, middle + reach
    return torch.where(low.isnan() | (low >= high), x, x.clamp(low, high)).var(0, unbiased=False)


def check_components(x: Tensor, components: int) -> None:
    """Raise a :class:`ZooError` unless ``x`` has as many distinct rows as ``components``, and there is at least one."""
    distinct = len(torch.unique(x, dim=0))
    if not 1 <= components <= distinct:
        raise ZooError(
            f"expected between 1 component and as many as the {distinct} distinct rows; got {components}; set --components")
