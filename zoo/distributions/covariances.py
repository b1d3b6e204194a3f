"""Covariances of distributions, whatever they are given by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution


def covariances(q: Distribution) -> Tensor:
    """Return the covariance of each unit under ``q``, (units, d, d): diagonal where q says only its variance."""
    full: Tensor | None = getattr(q, "covariance_matrix", None)
    return torch.diag_embed(q.variance) if full is None else full
