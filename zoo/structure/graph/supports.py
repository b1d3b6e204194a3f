"""Distributions and their supports in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MixtureSameFamily, TransformedDistribution

from zoo.program.sites.angles import centre, unwrapped

#: By the name of the constraint's class, without underscores, in lower case.
WORDS = {
    "real": "real", "boolean": "{0, 1}", "simplex": "simplex", "onehot": "one-hot",
    "lowercholesky": "Cholesky", "lowertriangular": "lower triangular", "corrcholesky": "correlation Cholesky",
    "corrmatrix": "correlation", "positivedefinite": "positive definite", "positivesemidefinite": "positive semidefinite",
    "symmetric": "symmetric", "square": "square", "multinomial": "counts", "sphere": "unit vector",
    "orderedvector": "ordered", "positiveorderedvector": "positive, ordered", "unitlowercholesky": "unit Cholesky",
    "softpluslowercholesky": "Cholesky", "softpluspositive": "positive", "integer": "whole numbers",
    "dependent": "depends on others", "cat": "mixed", "stack": "mixed",
}
#: Constraints with a lower bound alone, and with an upper one alone.
ABOVE = {"greaterthan": ">", "greaterthaneq": "≥"}
BELOW = {"lessthan": "<", "integerlessthan": "≤"}
#: What stands for a bound that differs between elements.
VARIOUS = "…"


def distribution_name(fn: Any) -> str:
    """Return what a distribution is called, masks and expansions left out.

    >>> import pyro.distributions as dist
    >>> distribution_name(dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(torch.zeros(2), 1.0)))
    'Mixture of Normal'
    """
    fn = unwrapped(fn)
    if isinstance(fn, MixtureSameFamily):
        return f"Mixture of {distribution_name(fn.component_distribution)}"
    if isinstance(fn, TransformedDistribution) and type(fn).__name__ == "TransformedDistribution":
        return f"transformed {distribution_name(fn.base_dist)}"
    return type(fn).__name__


def support_of(fn: Any, moves: Callable[[Tensor], bool] = lambda bound: False) -> str:
    """Return the support of a distribution in words; ``moves`` says whether a bound depends on other sites.

    >>> import pyro.distributions as dist
    >>> [support_of(fn) for fn in (dist.HalfCauchy(1.0), dist.Beta(1.0, 1.0), dist.Categorical(torch.ones(4)))]
    ['positive', '(0, 1)', '{0, …, 3}']
    """
    if centre(fn) is not None:
        return "angle"
    try:
        return constraint_words(getattr(unwrapped(fn), "support", fn.support), moves)
    except NotImplementedError:
        return "unknown"


def constraint_words(constraint: Any, moves: Callable[[Tensor], bool] = lambda bound: False) -> str:
    """Return a constraint of torch's or Pyro's in words; bounds that move, or differ between elements, are left out.

    >>> from torch.distributions import constraints
    >>> constraint_words(constraints.interval(-1.0, 2.5)), constraint_words(constraints.real_vector)
    ('(-1, 2.5)', 'real')
    """
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    name = type(constraint).__name__.replace("_", "").lower()
    if name in WORDS:
        return WORDS[name]
    low, high = (_number(getattr(constraint, end, None), moves) for end in ("lower_bound", "upper_bound"))
    if name == "integergreaterthan":
        return f"{low}, {_number(constraint.lower_bound + 1, moves)}, …"
    if low and high:
        return _interval("integer" in name, low, high)
    if low and name in ABOVE:
        return _one_sided(ABOVE[name], low)
    if high and name in BELOW:
        return f"{BELOW[name]} {high}"
    return type(constraint).__name__.strip("_").replace("_", " ")


def _one_sided(sign: str, bound: str) -> str:
    if bound == "0":
        return "positive"  # or nothing, which a density does not tell apart
    return f"{sign} {bound}"


def _interval(whole: bool, low: str, high: str) -> str:
    if not whole:
        return "interval" if VARIOUS in (low, high) else f"({low}, {high})"
    between = "" if VARIOUS in (low, high) else {1: "", 2: f"{int(low) + 1}, "}.get(int(high) - int(low))
    return f"{{{low}, {'…, ' if between is None else between}{high}}}"


def _number(bound: Any, moves: Callable[[Tensor], bool]) -> str:
    """Return a bound as text: ``…`` where it is not one number that stays, nothing where there is none."""
    if not isinstance(bound, Tensor):
        return "" if bound is None else f"{bound:g}"
    values = bound.detach().flatten()
    stays = len(values) and not moves(bound) and bool(torch.all(values == values[0]))
    return f"{float(values[0]):g}" if stays else VARIOUS
