"""Agreement of Markov chains: split R-hat and effective sample sizes, by ArviZ."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: Chains agree where R-hat of every coordinate is below this, and the effective sample size at least so large. Source: Vehtari,
#: Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and localization, https://arxiv.org/abs/1903.08008
RHAT, ESS = 1.01, 400.0


@dataclass(frozen=True)
class Agreement:
    """How far chains agree: split R-hat and the effective sample size of each unit's worst coordinate, (units,)."""

    rhat: Tensor
    ess: Tensor

    @classmethod
    def of(cls, states: Tensor) -> Agreement:
        """Look at states (iterations, chains, units, d)."""
        from arviz_stats.base import array_stats

        values = states.double().cpu().numpy()
        with np.errstate(all="ignore"):  # of a coordinate that never moved
            rhat = array_stats.rhat(values, chain_axis=1, draw_axis=0)
            ess = array_stats.ess(values, chain_axis=1, draw_axis=0)
        return cls(torch.as_tensor(rhat).nan_to_num(nan=math.inf).amax(-1), torch.as_tensor(ess).nan_to_num(nan=0.0).amin(-1))

    @classmethod
    def unknown(cls, z: Tensor) -> Agreement:
        """Return what is known before any look."""
        return cls(torch.full(z.shape[1:2], math.inf), torch.zeros(z.shape[1:2]))

    @property
    def enough(self) -> bool:
        """Whether the chains agree, and are long enough."""
        return float(self.rhat.max()) < RHAT and float(self.ess.min()) >= ESS

    @property
    def told(self) -> str:
        return f"R-hat {float(self.rhat.max()):.3f}, effective sample size {float(self.ess.min()):.0f}"
