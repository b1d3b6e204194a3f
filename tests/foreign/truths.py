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

#: log p of posteriors of posteriordb whose normaliser is not exact, with standard errors: by importance weights of Student's t
#: about the reference draws; of eight schools by quadrature.
POSTERIORS: Mapping[str, tuple[float, float]] = {
    "sblrc-blr": (-194.965, 0.008), "kilpisjarvi_mod-kilpisjarvi": (-103.222, 0.006), "arK-arK": (58.588, 0.003),
    "garch-garch11": (-450.997, 0.012), "eight_schools-eight_schools_noncentered": (-31.3113, 0.0),
    "low_dim_gauss_mix-low_dim_gauss_mix": (-2115.684, 0.004), "hmm_example-hmm_example": (-172.706, 0.008),
    "bball_drive_event_0-hmm_drive_0": (-1902.980, 0.012), "hudson_lynx_hare-lotka_volterra": (-147.081, 0.014),
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": (-41.136, 0.016)}

_LESSER = "the fit ends at a lesser mode, where log p(y, z) is far lower than at the reference means ({})"
_CHANCE = (
    "by 0.002 nats, 2.9 standard errors of the draws of seed 0, which the two share; of seeds 1 to 5, nine of ten are inside")
#: Why a posterior of posteriordb has its log p outside the interval, or the ``full_rank`` guide off. Skewness and excess
#: kurtosis are those of 1,000 reference draws in unconstrained coordinates, where a normal has none, ± 0.08 and 0.15.
SHAPES: Mapping[str, str] = {
    "kidiq-kidscore_momhs": _CHANCE, "kidiq-kidscore_momiq": _CHANCE,
    "garch-garch11": "alpha1 and beta1 have skewness 0.6 and 0.4, and excess kurtosis 1.1 and 1.5",
    "eight_schools-eight_schools_noncentered": "log tau has skewness −1.0 and excess kurtosis 2.0",
    "bball_drive_event_0-hmm_drive_0": _LESSER.format(
        "−1897 there; lambda[2] stays at its prior, where no data speak for it")
        + "; chains stand in different modes, so that log p is only bounded from below",
    "gp_pois_regr-gp_pois_regr": (
        "the data fix f = L(rho, alpha) f_tilde, so f_tilde bends with rho and alpha along a curved ridge: k̂ is near 1"),
    "hudson_lynx_hare-lotka_volterra": _LESSER.format("−134 there; some seeds find the other mode"),
    "one_comp_mm_elim_abs-one_comp_mm_elim_abs": "log V_m has skewness 2.6 and excess kurtosis 15"}
