"""Agreement of a comparison's evidence with the bounds from each guide's own draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.diagnostics.evaluation import worst_khat
from experiments.log_evidence.log_weights import LogWeights
from experiments.log_evidence.pareto import KHAT
from experiments.log_evidence.result import Evidence


def most_even(weights: Sequence[LogWeights]) -> list[int]:
    """Return the guides, that of the most even weights first.

    A bound on K draws lies below log p by about (1 / ESS share − 1) / 2K. The order is not that of the bounds, which would
    prefer lucky draws. The evidence itself is drawn afresh.
    """
    shares = [0.0 if (ess := weight.ess()) is None else float(ess.log().nan_to_num(-1e3).mean()) for weight in weights]
    return sorted(range(len(shares)), key=shares.__getitem__, reverse=True)


def beside(found: Evidence, weights: Mapping[str, LogWeights]) -> Evidence:
    """Return the evidence as it stands beside each guide's own ELBO and importance-weighted bound.

    Where a bound of even weights is below the evidence by more than 4 standard errors, the guide misses mass that others hold.
    """
    elbos = {text: weight.elbo() for text, weight in weights.items()}
    own = {text: _own_bound(weight) for text, weight in weights.items()}
    found = found.covering({
        **{f"the ELBO of '{text}'": (elbo.value, elbo.se) for text, elbo in elbos.items()},
        **{f"the importance-weighted bound of '{text}'": bound for text, bound in own.items()}})
    low = [f"'{text}'" for text, weight in weights.items() if weight.lacks(found.lower) and _even(weight)]
    if low and not found.remark:
        return found.noting(
            f"modes that some guides miss, or tails: {', '.join(low)} {'have' if low[1:] else 'has'} even weights and a bound "
            "below log p")
    return found


def _even(weight: LogWeights) -> bool:
    khat = worst_khat(weight.khat())
    return khat is None or khat <= KHAT


def _own_bound(weight: LogWeights) -> tuple[float, float]:
    """Return a guide's own importance-weighted bound, and its standard error; infinite if enumerated: it is no news."""
    own = weight.importance_estimate()
    return own.value, math.inf if weight.enumerated else own.se
