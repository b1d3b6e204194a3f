"""PPCA and factor analysis: evidence in closed form where noise vanishes, in float32, and with few rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo


def test_ppca_keeps_its_latent_dimensions() -> None:
    x = torch.randn(4, 10, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    assert zoo.build("ppca", x, latent=4).loadings.shape == (10, 4)
    with pytest.raises(zoo.ZooError, match="expected at most as many latent dimensions as the 4 rows; got 5"):
        zoo.build("ppca", x, latent=5)


def test_linear_gaussian_evidence_is_exact_where_the_noise_nearly_vanishes() -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build("factor_analysis", x, latent=2)
    with torch.no_grad():
        noise = model.noise.clone()
        noise[0] = 1e-9
        model.variance = noise
        z = model.posterior(x).sample((3,))
        identity = model.log_joint(x, z) - model.posterior(x).log_prob(z) - model.log_evidence(x)
    # The posterior's precision has condition number 1e9, so of float64's 16 digits seven are left.
    assert float(identity.abs().max()) < 4e9 * torch.finfo(torch.double).eps


def test_float32_gives_the_float64_evidence() -> None:
    x = zoo.dataset("wine", standardise=True).x
    value = [float(zoo.build("ppca", x.to(t)).log_evidence(x.to(t)).sum().detach()) for t in (torch.float32, torch.float64)]
    assert value[0] == pytest.approx(value[1], rel=1e-5)
    assert np.isfinite(value).all()
