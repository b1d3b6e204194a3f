"""The posterior as an ArviZ tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from experiments.diagnostics.linear_response import linear_response
from experiments.diagnostics.marginal import marginal_log_likelihood
from experiments.diagnostics.tree import THETA, given_groups, observations, tree_of
from experiments.inference.fit import pair
from experiments.log_evidence.log_weights import log_joint
from guides.drawn import Empirical
from guides.guide import AnyGuide
from zoo.bare import given
from zoo.data import Data, tensors
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.enumeration.recovery import draws as recovered_draws
from zoo.program.enumeration.recovery import probabilities
from zoo.program.run import Program, seeded
from zoo.structure.learned import learned

if TYPE_CHECKING:
    from xarray import DataTree

#: Where deviations may come from.
SDS = ("guide", "linear_response")
#: Every group that :func:`posterior` can make.
GROUPS = (
    "posterior", "prior", "posterior_predictive", "log_likelihood", "sample_stats", "observed_data", "constant_data", THETA)


def posterior(
    model: Model | Program, guide: AnyGuide, *x: Any, draws: int = 1000, seed: int = 0,
    groups: Sequence[str] = GROUPS, sd: str = "guide", infer_discrete: bool = False, local_draws: int = 0,
    coords: Mapping[str, Sequence[Any]] | None = None, dims: Mapping[str, Sequence[str]] | None = None,
) -> DataTree:
    """Return draws of the guide as an ArviZ ``DataTree``.

    Values are constrained, under the program's site names; deterministic sites and quantities that the model recovers
    are with them. Batch dimensions are named after their plates, event dimensions as the model or ``dims`` says, else
    ``<site>_dim_<i>``. There is one chain: the draws are independent.

    ========================  ==========================================================================
    ``posterior``             z ~ q(z | x)
    ``prior``                 z ~ p(z); left out where a prior is improper
    ``posterior_predictive``  x_new ~ p(x | z), z ~ q
    ``log_likelihood``        log p(x_i | z) of each observation, in nats
    ``sample_stats``          ``log_p`` = log p(x, z), ``log_q``, ``log_weight``, of each unit; of draws ``log_p`` alone
    ``observed_data``         the observations; ``constant_data``: the other entries of x
    ``theta``                 what was learned, see :meth:`zoo.Model.learned`; left out where nothing was
    ========================  ==========================================================================

    Args:
        model: a model or a bare Pyro program.
        guide: a fitted guide, how one without parameters is written (``exact``, ``prior``), or any Pyro guide.
        x: the data, or all arguments of the program, as of :func:`experiments.fit`.
        draws: how many.
        seed: of the draws.
        groups: which groups to make; predictive draws run the program draw by draw, so leave them out where not needed.
        sd: ``guide``: draws are the guide's own; ``linear_response``: of normals with its means and covariances that answer for
            what a factorised guide leaves out, see :func:`experiments.diagnostics.linear_response.linear_response`.
        infer_discrete: recover discrete latents that are summed out, in the posterior group: draws under their sites' names,
            and ``<site>_probs``, the posterior probabilities of their values at each draw of the continuous latents.
        local_draws: of rows that have latents of their own beside shared ones, z = (u, z_i): let ``log_likelihood`` be
            log p(x_i | u), the row's own latents integrated out with so many draws for each of u; 0: log p(x_i | z).
        coords: labels of dimensions, e.g. ``{"school": [...]}``. Where x is a frame, a plate ``counties`` of as many rows as
            its column ``county`` has categories is labelled by these.
        dims: names of sites' event dimensions, and of those of parameters θ, over the model's own.

    Raises:
        ZooError: fewer than 1 draw, an unknown group or sd, a guide without linear response, or labels of another length than
            their dimension.

    With one unit, ``arviz_stats.loo_approximate_posterior(tree, log_p, log_q)`` takes ``sample_stats`` as it is; see
    docs/comparing_models.md.

    >>> import zoo, guides
    >>> x = zoo.dataset("faithful").x
    >>> tree = posterior(zoo.build("gmm", x), "exact", x, draws=10, groups=["posterior"])
    >>> dict(tree["posterior"]["z"].sizes)
    {'chain': 1, 'draw': 10, 'rows': 272}
    """
    _check(draws, groups, sd)
    shown = given(model, *x)
    model, guide = pair(model, guide, shown, seed)
    latents = model.latents(shown)
    with seeded(seed), torch.no_grad():
        q = guide.posterior(shown) if sd == "guide" else linear_response(model, guide, shown, seed)
        data = _Drawn(model, shown, q, q.sample(torch.Size([draws])), infer_discrete, local_draws).of(groups)
        known = given_groups(shown, latents, tensors(shown), observations(model, shown, latents))
    data |= {group: values for group, values in known.items() if group in groups and values}
    theta = learned(model, dims) if THETA in groups else None
    return tree_of(data, latents, shown, {**model.dims, **(dims or {})}, coords, theta)


def _check(draws: int, groups: Sequence[str], sd: str) -> None:
    if sd not in SDS:
        raise ZooError(f"expected sd as one of {', '.join(SDS)}; got '{sd}'; choose one")
    if draws < 1:
        raise ZooError(f"expected 1 or more draws; got {draws}; ask for more")
    unknown = [g for g in groups if g not in GROUPS]
    if unknown:
        raise ZooError(f"unknown group '{unknown[0]}'; choose from {', '.join(GROUPS)}")


@dataclass(frozen=True)
class _Drawn:
    """Draws z (draws, units, d) of q(z | x), and how what goes with them is to be found."""

    model: Model
    x: Data
    q: Distribution
    z: Tensor
    infer_discrete: bool
    local_draws: int

    def of(self, groups: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Return the variables of each of the ``groups``, (draws, …) each. Uses torch's generator."""
        model, x, z = self.model, self.x, self.z
        makers: dict[str, Callable[[], dict[str, Tensor]]] = {
            "posterior": lambda: {**_values(model, x, z), **(_recovered(model, x, z) if self.infer_discrete else {})},
            "prior": lambda: _values(model, x, model.sample_prior(x, len(z))),
            "posterior_predictive": lambda: model.predict(x, z), "log_likelihood": self._likelihoods,
            "sample_stats": self._stats}
        if model.latents(x).improper:
            del makers["prior"]
        return {group: make() for group, make in makers.items() if group in groups}

    def _stats(self) -> dict[str, Tensor]:
        values = {"log_p": log_joint(self.model, self.x, self.z)}
        if not isinstance(self.q, Empirical):
            values["log_q"] = self.q.log_prob(self.z)
            values["log_weight"] = values["log_p"] - values["log_q"]
        return values if self.model.latents(self.x).unit else {k: v[:, 0] for k, v in values.items()}

    def _likelihoods(self) -> dict[str, Tensor]:
        if self.local_draws:
            return marginal_log_likelihood(self.model, self.x, self.z, self.local_draws)
        return self.model.log_likelihood(self.x, self.z)


def _values(model: Model, x: Data, z: Tensor) -> dict[str, Tensor]:
    values = model.constrain(x, z)
    return {**values, **model.recover(x, values)}


def _recovered(model: Model, x: Data, z: Tensor) -> dict[str, Tensor]:
    """Return the discrete latents that are summed out, drawn at each of z, and the probabilities of their values."""
    if not model.latents(x).summed:
        return {}
    shares = probabilities(model.runner, x, z)
    return {**recovered_draws(model.runner, x, z), **{f"{name}_probs": value for name, value in shares.items()}}
