"""The rule by which importance weights tell that a guide misses posterior mass."""

from __future__ import annotations

#: k̂ above this means that importance weights have no finite variance to speak of. Source: Vehtari, Simpson, Gelman, Yao and
#: Gabry (2024), Pareto smoothed importance sampling, https://arxiv.org/abs/1507.02646
KHAT = 0.7
#: Weights with an effective sample size above this share of the draws are all but equal: what tail they have says nothing.
EVEN = 0.9


def misses_mass(khat: float | None, ess: float | None, draws: int) -> bool:
    """Whether a guide misses posterior mass that matters: k̂ > 0.7 with uneven weights.

    Args:
        khat, ess: of the worst unit; ``None`` where nothing was drawn.
        draws: of z per unit.

    >>> misses_mass(0.9, 40.0, 1000), misses_mass(0.9, 990.0, 1000), misses_mass(None, None, 2)
    (True, False, False)
    """
    return khat is not None and khat > KHAT and (ess or 0.0) < EVEN * draws
