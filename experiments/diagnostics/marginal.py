"""Likelihoods of rows with the rows' own latents integrated out."""

from __future__ import annotations

import math
import warnings

import torch
from pyro.distributions import MultivariateStudentT
from torch import Tensor

from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.structure.blocks import blocks, log_block_terms

#: Degrees of freedom of proposals: tails heavier than those of most posteriors.
DF = 5.0
#: Draws of the guide for each number of a regression, below which local latents are not regressed on the shared ones.
PER_NUMBER = 10
#: Effective draws below which an integral is not to be trusted.
FEW = 10


def marginal_log_likelihood(model: Model, x: Data, z: Tensor, draws: int) -> dict[str, Tensor]:
    """Return log p(x_i | u, θ) at the shared latents u of z (draws, 1, d), by the names of observed sites: (draws, rows).

    The local latents z_i are integrated out by importance sampling with ``draws`` draws each. Proposals are Student's t about
    the regression of a row's local latents on the shared ones, over the draws z of a guide. The estimate of p(x_i | u) is
    unbiased whatever the guide; how good it is hangs on the guide, and a warning says where it is not.

    Args:
        model: the model.
        x: the data.
        z: draws of a guide.
        draws: of each row's local latents, for each of z.

    Raises:
        ZooError: rows without latents of their own beside shared ones, or fewer than 1 draw.

    Source: Merkle, Furr and Rabe-Hesketh (2019), Bayesian comparison of latent variable models: conditional versus marginal
    likelihoods, https://doi.org/10.1007/s11336-019-09679-0
    """
    found = blocks(model, x)
    if found is None or not found.local.numel() or not found.shared.numel():
        raise ZooError(
            f"expected rows of {model.label} with latents of their own beside shared ones for local_draws; got others; leave "
            "it out")
    if draws < 1:
        raise ZooError(f"expected 1 or more local_draws; got {draws}; e.g. 64")
    shared, local = found.split(z)
    centre, factor = _proposals(shared, local)
    q = MultivariateStudentT(z.new_tensor(DF), torch.zeros_like(centre[0]), factor, validate_args=False)
    logs = []
    for _ in range(draws):
        noise = q.sample((len(z),))
        terms = log_block_terms(model, x, found.join(shared, centre + noise))[1]
        logs.append(terms - q.log_prob(noise))
    log_weights = torch.stack(logs)
    total = log_weights.logsumexp(0)
    _check((2 * total - (2 * log_weights).logsumexp(0)).exp(), draws)
    return {", ".join(site.name for site in model.latents(x).observed): total - math.log(draws)}


def _proposals(shared: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
    """Return the regression's value at each draw (draws, rows, d), and a factor of what is left of the covariance (rows, d, d).

    Too few draws for a regression leave a mean.
    """
    ones = torch.ones_like(shared[:, :1])
    design = torch.cat([ones, shared - shared.mean(0)], 1)
    if len(design) < PER_NUMBER * design.shape[1]:
        design = ones
    flat = local.flatten(1)
    centre = (design @ torch.linalg.lstsq(design, flat).solution).reshape(local.shape)
    left = local - centre
    covariance = torch.einsum("sri,srj->rij", left, left) / max(1, len(local) - design.shape[1])
    # A direction in which the draws do not differ, or a single draw, has no spread to tell; a unit of the data's rounding has.
    jitter = 1e-8 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-8)
    return centre, torch.linalg.cholesky(covariance + jitter[:, None, None] * torch.eye(local.shape[-1]).to(local))


def _check(effective: Tensor, draws: int) -> None:
    """Warn of rows whose integrals hang on few draws. ``effective`` numbers of them: (draws of u, rows)."""
    means = effective.nan_to_num(0.0).mean(0)
    bad = (means < min(FEW, 0.5 * draws)).nonzero().flatten().tolist()
    if bad:
        warnings.warn(ZooWarning(
            f"integrals over the local latents of {len(bad)} rows hang on few draws, e.g. row {bad[0]} on "
            f"{float(means[bad[0]]):.1f} of {draws}; raise local_draws, or use a richer guide"), stacklevel=5)
