"""Right values of foreign programs that are worked out here, by other means than the zoo's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.distributions import Gamma, HalfNormal, MultivariateNormal

from tests.foreign.truths import TRUTHS


def test_gp_regr_by_quadrature_in_three_dimensions() -> None:
    """By the trapezoid rule over logarithms of rho, alpha and sigma; finer grids agree to 10⁻⁶ nats."""
    data = json.loads((Path(__file__).parent / "posteriordb.json").read_text())["data"]["gp_pois_regr"]
    x, y = (torch.tensor(data[name], dtype=torch.double) for name in ("x", "y"))
    ends = {"rho": (1.5, 20.0, 40), "alpha": (1e-4, 12.0, 90), "sigma": (1e-6, 6.0, 120)}
    axes = [torch.linspace(math.log(a), math.log(b), n, dtype=torch.double) for a, b, n in ends.values()]
    parts = []
    for log_rho in axes[0]:
        rho, alpha, sigma = torch.meshgrid(log_rho[None].exp(), axes[1].exp(), axes[2].exp(), indexing="ij")
        kernel = alpha[..., None, None] ** 2 * (-0.5 * ((x[:, None] - x) / log_rho.exp()) ** 2).exp()
        likelihood = MultivariateNormal(torch.zeros_like(y), kernel + sigma[..., None, None] * torch.eye(len(x))).log_prob(y)
        prior = Gamma(25.0, 4.0).log_prob(rho) + HalfNormal(2.0).log_prob(alpha) + HalfNormal(1.0).log_prob(sigma)
        parts.append(likelihood + prior + (rho * alpha * sigma).log())
    found = float(torch.cat(parts).logsumexp((0, 1, 2))) + sum(math.log(float(axis[1] - axis[0])) for axis in axes)
    assert found == pytest.approx(TRUTHS["gp_regr"][0], abs=1e-4)
