"""Bayesian probabilistic matrix factorisation of ratings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Data, check_magnitude, check_mapping
from zoo.errors import ZooError, check_number
from zoo.model import Model


class MatrixFactorisation(Model):
    """Bayesian matrix factorisation: rating_ij ~ N(m + a_i + b_j + u_iᵀ v_j, noise²) of the user–item pairs that are seen.

    u_i ~ N(0, I), v_jk ~ N(0, s² / latent), a_i = user_scale · o_i with o_i ~ N(0, 1), b_j ~ N(0, s²), user_scale, noise ~
    HalfNormal(s), with m and s the mean and standard deviation of the ratings seen. Each user has its own factors u_i and
    offset o_i, local latents; what belongs to items, and the scales, is shared by all users, so the data set is one unit.

    Turning the users' and the items' factors by one rotation leaves the density as it is: a Gaussian guide holds one place on a
    sphere of modes. Draws of ``experiments.posterior`` have ratings for the pairs that are not seen, too.

    Args:
        x: ``{"ratings": (users, items), "seen": (users, items) of 0 and 1}``; ratings not seen are not looked at. Scales the
            priors.
        latent: how many factors.

    Raises:
        ZooError: an entry is missing, not finite or of another shape; seen is not 0 and 1; fewer than two different ratings.

    Source: Salakhutdinov and Mnih (2008), Bayesian probabilistic matrix factorization using Markov chain Monte Carlo,
    https://doi.org/10.1145/1390156.1390267; here the priors' scales are the ratings' own, and there are biases.

    >>> x = {"ratings": torch.tensor([[1.0, 4.0], [2.0, 0.0]]), "seen": torch.tensor([[1.0, 1.0], [1.0, 0.0]])}
    >>> [(site.name, site.size) for site in MatrixFactorisation(x).latents(x).sites]
    [('noise', 1), ('user_scale', 1), ('item_bias', 2), ('item_factors', 4), ('user_offset', 2), ('user_factors', 4)]
    """

    pure = True
    dims = {
        "item_bias": ("item",), "item_factors": ("item", "latent"), "user_factors": ("latent",), "ratings": ("item",)}
    centre: Tensor
    spread: Tensor

    def __init__(self, x: Data, latent: int = 2):
        super().__init__()
        data = check_ratings(x, self.label)
        check_number("latent", latent, whole=True, least=1, mend="set --latent")
        self.latent = latent
        seen = data["ratings"][data["seen"] > 0]
        self.register_buffer("centre", seen.mean())
        self.register_buffer("spread", seen.std())

    def forward(self, x: dict[str, Tensor]) -> None:
        spread, items = self.spread, x["ratings"].shape[1]
        standard = dist.Normal(spread.new_zeros(()), 1.0)
        noise = pyro.sample("noise", dist.HalfNormal(spread))
        user_scale = pyro.sample("user_scale", dist.HalfNormal(spread))
        item_bias = pyro.sample("item_bias", dist.Normal(0.0 * spread, spread).expand([items]).to_event(1))
        typical = spread / self.latent**0.5
        item_factors = pyro.sample("item_factors", dist.Normal(0.0 * spread, typical).expand([items, self.latent]).to_event(2))
        seen: Any = x["seen"] > 0
        with pyro.plate("users", len(seen)):
            bias = pyro.deterministic("user_bias", user_scale * pyro.sample("user_offset", standard))
            factors = pyro.sample("user_factors", standard.expand([self.latent]).to_event(1))
            mean = self.centre + bias[..., None] + item_bias + factors @ item_factors.mT
            pyro.sample("ratings", dist.Normal(mean, noise).mask(seen).to_event(1), obs=x["ratings"])

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return the items' mean ratings, drawn in to those of all, and the principal factors of what these leave."""
        data = check_ratings(x, self.label)
        seen = (data["seen"] > 0).to(data["ratings"])
        rest = (data["ratings"] - self.centre) * seen
        bias = rest.sum(0) / (seen.sum(0) + 1)
        rest = (rest - bias) * seen
        own = rest.sum(1) / (seen.sum(1) + 1)
        users, sizes, items = torch.linalg.svd((rest - own[:, None]) * seen, full_matrices=False)
        count = min(self.latent, len(sizes))
        factors, loadings = rest.new_zeros(len(rest), self.latent), rest.new_zeros(rest.shape[1], self.latent)
        factors[:, :count] = users[:, :count] * len(rest) ** 0.5
        loadings[:, :count] = items[:count].T * sizes[:count] / len(rest) ** 0.5
        half = 0.5 * self.spread
        return {"noise": half, "user_scale": half, "item_bias": bias, "item_factors": loadings, "user_offset": own / half,
                "user_factors": factors}

    def extra_repr(self) -> str:
        return f"latent={self.latent}"


def check_ratings(x: Data, name: str) -> Mapping[str, Tensor]:
    """Return ``x`` with ratings and seen of shape (users, items), seen of 0 and 1."""
    data = check_mapping(x, ("ratings", "seen"), name)
    ratings, seen = data["ratings"], data["seen"]
    if ratings.ndim != 2 or ratings.shape != seen.shape:
        raise ZooError(
            f"expected ratings and seen of one shape (users, items) for {name}; got {tuple(ratings.shape)} and "
            f"{tuple(seen.shape)}; match them")
    if not bool(((seen == 0) | (seen == 1)).all()):
        raise ZooError(f"expected seen of 0 and 1 for {name}; got other values; mend them")
    values = ratings[seen > 0]
    check_magnitude(values, name)
    if len(values) < 2 or bool(values.min() == values.max()):
        raise ZooError(f"expected two different ratings or more for {name}; got none; add data")
    return data
