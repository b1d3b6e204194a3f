"""The studies, in the order of the theory: each a claim, its numbers and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class StudyEntry:
    """One study: its module, which has ``run(quick, seed)`` and states the claim in its docstring; the claim in a line; and
    about how many seconds it takes on one core, since of several the longest should start first."""

    module: str
    claim: str
    seconds: int


STUDIES: Mapping[str, StudyEntry] = {
    "change-of-variables": StudyEntry(
        "experiments.studies.claims.change_of_variables", "p(x) = p(f(x)) |det ∂f/∂x|, for a trained flow", 19),
    "composition": StudyEntry(
        "experiments.studies.claims.composition", "the log-determinants of a flow's layers add up to that of the whole", 22),
    "marginal-likelihood": StudyEntry(
        "experiments.studies.claims.marginal_likelihood", "p(x | θ) = Σ_k π_k N(x | μ_k, Σ_k) is how often a mixture draws x",
        4),
    "naive-monte-carlo": StudyEntry(
        "experiments.studies.claims.naive_monte_carlo", "draws from the prior fail as exp KL(posterior‖prior) grows", 28),
    "posterior": StudyEntry(
        "experiments.studies.claims.posterior",
        "Bayes' rule, by enumeration and in closed form, is what long Markov chains find", 28),
    "elbo": StudyEntry("experiments.studies.claims.elbo", "ELBO ≤ log p, and what lacks is KL(q‖posterior)", 8),
    "decomposition": StudyEntry(
        "experiments.studies.claims.decomposition", "log p = reconstruction − KL(q‖prior) + KL(q‖posterior), all along a fit",
        34),
    "em-coordinate-ascent": StudyEntry(
        "experiments.studies.claims.em_coordinate_ascent", "EM climbs one ELBO, in q and θ by turns", 1),
    "em-parameter-space": StudyEntry(
        "experiments.studies.claims.em_parameter_space",
        "each bound touches log p(x | θ) where it was made; its top lies higher", 7),
    "em-versus-svi": StudyEntry(
        "experiments.studies.claims.em_versus_svi", "EM, SVI and fixed draws climb one ELBO, as far as their guides allow", 18),
    "guide-families": StudyEntry(
        "experiments.studies.claims.guide_families", "a gap is what the family lacks plus what the encoder lacks", 55),
    "collapse": StudyEntry(
        "experiments.studies.claims.collapse", "a decoder that needs no latents gets none, unless the KL term is warmed up",
        29),
}
