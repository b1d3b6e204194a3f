"""Linear-response covariances of normal guides: how the optimum's means answer to a tilt of the posterior.

The covariance of the posterior is the derivative of its mean by a linear tilt of log p(x, z). A guide's mean at its optimum
answers to the same tilt, and by the implicit function theorem its derivative is the block of the means in −(∇² ELBO)⁻¹, over
all of φ. So a factorised guide, whose own deviations are too small, has correlations and deviations that are right where the
posterior is normal.

Source: Giordano, Broderick and Jordan (2018), Covariances, robustness, and variational Bayes, https://arxiv.org/abs/1709.02536;
Giordano, Ingram and Broderick (2024), Black box variational inference with a deterministic objective,
https://arxiv.org/abs/2304.05527
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from experiments.optimisers.newton import derivatives
from experiments.runtime.memory import PILOT, within, work
from experiments.samplers.quasi_random import normal_noise
from guides.amortisation import Free
from guides.families.family import Normal
from guides.guide import BaseGuide, Guide
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program.run import evaluating

#: Numbers of a unit's φ at most, of which the second derivatives are taken; draws of the ELBO, at most and at least.
MOST, DRAWS, FEWEST = 400, 1024, 64


def linear_response(model: Model, guide: BaseGuide, x: Data, seed: int = 0) -> MultivariateNormal:
    """Return the normals with a fitted guide's means and linear-response covariances, in unconstrained coordinates.

    Args:
        model: the model.
        guide: a free normal guide at its optimum, as ``fixed_draws`` fits it.
        x: the data.
        seed: of the fixed draws.

    Returns:
        a distribution of batch shape (units,) and event shape (d,).

    Raises:
        ZooError: a guide that is no free normal one, has over 400 numbers a unit, or is not at an optimum.

    >>> import experiments, zoo
    >>> x = zoo.dataset("kilpisjarvi", "regression").x
    >>> model = zoo.build("linear_regression", x)
    >>> guide = experiments.fit(model, "mean_field", x, train_model=False).guide
    >>> with zoo.seeded(0):
    ...     exact = model.posterior(x).sample((20_000,)).std(0)
    >>> own, response = guide.posterior(x).variance.sqrt(), linear_response(model, guide, x).variance.sqrt()
    >>> bool((own / exact).min() < 0.7), bool(((response / exact - 1).abs() < 0.05).all())
    (True, True)
    """
    if not isinstance(guide, Guide) or not isinstance(guide.amortisation, Free) or not isinstance(guide.family, Normal):
        raise ZooError(
            f"expected a normal guide with parameters of its own for linear response; got '{guide.text}'; use mean_field")
    own, family = guide.amortisation, guide.family
    rows, latents = own.flat(), model.latents(x)
    if rows.shape[1] > MOST:
        raise ZooError(
            f"expected at most {MOST} numbers of φ a unit for linear response; got {rows.shape[1]} of '{guide.text}'; use "
            "mean_field")
    like = next(iter(own.phi.values()))
    size = family.noise_size(dict(own.phi))
    each = work(x, latents.units, latents.size) * rows.shape[1]
    draws = max(2 * size, within(16 * PILOT, each, FEWEST, DRAWS)) // 2 * 2
    noise = normal_noise(draws, size, seed, like)

    def elbos(points: Tensor) -> Tensor:  # (copies, units, size) → (copies, units)
        phi = {name: value.to(like) for name, value in own.unflat(points.flatten(0, 1)).items()}
        z = family.transform(phi, noise).view(len(noise), *points.shape[:2], -1)
        joint = model.log_joint(x, z.flatten(0, 1)).view(len(noise), *points.shape[:2]).mean(0)
        return (joint + family.distribution(phi).entropy().view(points.shape[:2])).double()

    with evaluating(model, guide):
        _, _, hessian = derivatives(elbos, rows)
    factor, failed = torch.linalg.cholesky_ex(-0.5 * (hessian + hessian.mT))
    if bool(failed.any()):
        raise ZooError(
            f"expected '{guide.text}' at an optimum of its ELBO for linear response; got one that rises on; fit it by "
            "fixed_draws, until it has converged")
    at = _columns(own, "loc")
    covariance = torch.cholesky_inverse(factor)[:, at][:, :, at]
    loc = guide.posterior(x).mean.detach()
    return MultivariateNormal(loc, covariance_matrix=covariance.to(loc), validate_args=False)


def _columns(own: Free, name: str) -> slice:
    """Return where the numbers of φ called ``name`` lie in a row of them."""
    begin = 0
    for other, shape in own.shapes.items():
        if other == name:
            return slice(begin, begin + shape.numel())
        begin += shape.numel()
    raise AssertionError(f"a normal has a {name}")
