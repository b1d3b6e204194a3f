"""What a rung is held against: its own importance-weighted bound, and quantities by a reference."""

from __future__ import annotations

import math

from experiments.comparison.parameters import Quantity
from experiments.log_evidence.log_weights import LogWeights
from experiments.log_evidence.result import Evidence

#: The error of a mean, in standard deviations, and of a standard deviation, as a share, that a quantity may have.
QUANTITY = 0.1


def right(found: Quantity) -> bool:
    """Return whether a quantity's mean and deviation are right, whatever noise there is in what they are held against."""
    (error, error_se), (ratio, ratio_se) = found.error, found.ratio
    return abs(error) + 2 * error_se <= QUANTITY and abs(ratio - 1) + 2 * ratio_se <= QUANTITY


def says_no_more(found: Evidence, known: Evidence) -> bool:
    """Return whether a second look tells nothing more: an interval about the known one."""
    return found.width >= known.width and found.lower <= known.lower and (found.upper or math.inf) >= (known.upper or math.inf)


def own_bound(weight: LogWeights) -> Evidence:
    """Return the guide's own importance-weighted bound, where log p(x | θ) has not been looked for."""
    own = weight.importance_estimate()
    return Evidence("lower_bound", own.value, own.se, own.value, None, own.units)
