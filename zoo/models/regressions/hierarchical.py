"""A linear regression whose coefficients vary by group."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from torch import Tensor

from zoo.data import Data, check_positive
from zoo.errors import ZooError
from zoo.model import Model
from zoo.models.regression import check_design, design


class HierarchicalRegression(Model):
    """Linear regression with an intercept and slopes for each group, which are normal around those of all groups.

    With s the prior's ``scale``, D covariates and j[i] the group of row i,

        mean ~ N(0, 4s² I),  scales ~ HalfNormal(s),  C ~ LKJ(η),  noise ~ HalfNormal(s),
        β_j ~ N(mean, diag(scales) C diag(scales)),  y_i ~ N((1, x_i)ᵀ β_{j[i]}, noise²).

    All latents are shared: the rows of the unit plate own none, so the data set is one unit. By default β is not centred,
    β_j = mean + diag(scales) L offsets_j with C = L Lᵀ and offsets_j ~ N(0, I): Gaussian guides follow these better where
    groups are small.

    Latents: ``mean``, ``scales`` (D + 1,), the intercept's first; ``corr_cholesky`` L; ``noise``; ``offsets``, or
    ``coefficients`` β, (groups, D + 1).

    Args:
        x: ``{"X": (rows, D), "y": (rows,), "group": (rows,) of whole numbers from 0}``; standardise the columns of X.
        centred: sample β itself.
        shape: η; 1 is uniform over correlation matrices.
        scale: s. The priors expect y to be about so large: give its standard deviation where that is far from 1.

    Raises:
        ZooError: an entry is missing, not finite, of other length; X has a constant column; fewer than 2 groups; a prior is not
            positive.

    Source: Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical Models, ch. 13,
    http://www.stat.columbia.edu/~gelman/arm/; Lewandowski, Kurowicka and Joe (2009), Generating random correlation matrices,
    J. Multivariate Analysis 100, https://doi.org/10.1016/j.jmva.2009.04.008

    >>> import torch
    >>> x = {"X": torch.randn(20, 1), "y": torch.randn(20), "group": torch.arange(20) % 4}
    >>> HierarchicalRegression(x).latents(x).size          # 2 means, 2 scales, 1 correlation, 1 noise, 4 · 2 offsets
    14
    """

    pure = True
    dims = {
        "mean": ("coefficient",), "scales": ("coefficient",), "corr_cholesky": ("coefficient", "other_coefficient"),
        "offsets": ("coefficient",), "coefficients": ("coefficient",)}

    def __init__(self, x: Data, centred: bool = False, shape: float = 1.0, scale: float = 1.0):
        super().__init__()
        check_design(x, self.label)
        self.groups = count_groups(x, self.label)
        check_positive(self.label, shape=shape, scale=scale)
        self.centred, self.shape, self.scale = centred, shape, scale

    def forward(self, x: dict[str, Tensor]) -> None:
        one, width = x["X"].new_ones(()), x["X"].shape[1] + 1
        mean = pyro.sample("mean", dist.Normal(0.0 * one, 2 * self.scale).expand([width]).to_event(1))
        scales = pyro.sample("scales", dist.HalfNormal(self.scale * one).expand([width]).to_event(1))
        corr_cholesky = pyro.sample("corr_cholesky", dist.LKJCholesky(width, self.shape * one))
        noise = pyro.sample("noise", dist.HalfNormal(self.scale * one))
        factor = scales[..., None] * corr_cholesky
        with pyro.plate("group", self.groups):
            if self.centred:
                coefficients = pyro.sample("coefficients", dist.MultivariateNormal(mean, scale_tril=factor))
            else:
                offsets = pyro.sample("offsets", dist.Normal(0.0 * one, 1.0).expand([width]).to_event(1))
                coefficients = pyro.deterministic("coefficients", mean + offsets @ factor.mT, event_dim=1)
        with pyro.plate("rows", len(x["X"])):
            each = coefficients.index_select(-2, x["group"])
            pyro.sample("y", dist.Normal((each * design(x)).sum(-1), noise), obs=x.get("y"))

    def extra_repr(self) -> str:
        return f"groups={self.groups}, centred={self.centred}"


def count_groups(x: Data, name: str) -> int:
    """Return how many groups the rows of ``x`` are in: one more than the largest number of a group.

    Raises:
        ZooError: no entry ``group``, not a whole number from 0 up for each row, or fewer than 2 groups.
    """
    group = None if isinstance(x, Tensor) else x.get("group")
    if isinstance(x, Tensor) or group is None:
        raise ZooError(f"expected a mapping with group for {name}; got none; add a whole number from 0 up for each row")
    if group.shape != x["y"].shape or group.is_floating_point() or group.is_complex() or bool((group < 0).any()):
        raise ZooError(
            f"expected group of {name} to be a whole number from 0 up for each of {len(x['y'])} rows; got {group.dtype} of "
            f"shape {tuple(group.shape)} from {group.min():g}; use torch.int64")
    groups = int(group.max()) + 1
    if groups < 2:
        raise ZooError(f"expected at least 2 groups for {name}; got 1; use a regression without groups")
    return groups
