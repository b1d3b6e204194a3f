"""log p, in nats, of the foreign programs for which it is known without the zoo, with its standard error, and its source."""

from __future__ import annotations

from collections.abc import Mapping

_ONE_DIMENSION = "one dimension by quadrature, the rest in closed form"
_IMPORTANCE = "importance sampling from posteriordb's draws"
_BY_SUMS = "enumeration and quadrature"

TRUTHS: Mapping[str, tuple[float, float, str]] = {
    "eight_schools_c": (-31.3113, 0.0, _ONE_DIMENSION), "eight_schools_nc": (-31.3113, 0.0, _ONE_DIMENSION),
    "eight_reparam": (-31.3113, 0.0, _ONE_DIMENSION), "arK": (58.588, 0.003, _IMPORTANCE),
    "garch11": (-461.357, 0.003, _IMPORTANCE), "gmm_ordered": (-2114.991, 0.004, _IMPORTANCE),
    "gmm_discrete": (-2114.991, 0.004, "that of gmm_ordered, whose assignments are summed out"),
    "beta_binomial_hier": (-47.7243, 0.0, "a grid in two dimensions"), "changepoint_marginal": (-176.8661, 0.0, _BY_SUMS),
    "cjs_marginal": (-170.2319, 0.0, _BY_SUMS), "weibull_factor": (-129.4910, 0.0, _BY_SUMS),
    "funnel": (0.0, 0.0, "by construction"), "banana": (0.0, 0.0, "by construction"),
    "hmm_discrete_only": (-21.1614, 0.0, "the forward algorithm"), "boundary_bernoulli": (-15.7273, 0.0, "closed form"),
    "gp_regr": (-27.55545, 0.0, "quadrature in three dimensions")}
