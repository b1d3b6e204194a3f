"""log p(x | θ) between a stochastic lower and a stochastic upper bound."""

from __future__ import annotations

import warnings
from dataclasses import replace

from torch import Tensor

from experiments.log_evidence.brackets.annealed import AnnealingOptions, anneal
from experiments.log_evidence.brackets.nested import nested_bracket
from experiments.log_evidence.brackets.sandwich import Bracket, goal, target
from experiments.log_evidence.brackets.weighted import importance_bracket
from experiments.log_evidence.log_weights import log_weights
from experiments.log_evidence.proposals.conditional import nests
from experiments.runtime.budget import Budget, Unaffordable
from experiments.runtime.seeds import Stream
from experiments.samplers.posterior import take_draws
from guides.guide import BaseGuide, paired
from zoo.data import Data
from zoo.errors import ZooError, ZooWarning
from zoo.model import Model
from zoo.program.run import Program, evaluating

#: The variance of weights over their squared mean at which they are all but equal, and draws that tell.
EVEN, EVEN_DRAWS = 1e-3, 64
#: R-hat of chains that agree.
AGREED = 1.1

METHODS = ("nested", "importance", "annealed")


def bracket(
    model: Model | Program, guide: BaseGuide, x: Data, exact: Tensor | None = None, *, method: str | None = None,
    draws: int | None = None, temperatures: int | None = None, chains: int | None = None, seed: int = 0,
    budget: Budget | None = None,
) -> Bracket:
    """Bound log p(x | θ) from both sides: by importance weights where they will do, by annealing where they will not.

    Where rows share latents and own others, nested weights come first: see
    :mod:`experiments.log_evidence.brackets.nested`. Elsewhere, and where their limits are too far apart or the guide's own
    weights are all but equal, importance does. Where its limits are more than 0.3 nats plus 0.04 per unit apart, pilot chains
    say how many temperatures would bring them as close (16 to 256, fewer for large data; of many units, each has its own, see
    :func:`experiments.log_evidence.brackets.annealed.temperatures_of`). Annealing with so many then replaces it, on both
    sides, if it promises to be narrower. Nested weights stand after all where what came after them is wider. So the
    choice looks at widths, not at where the bounds lie, and at those of pilot chains where it comes to annealing: neither side
    is the better of two noisy numbers. Only the exact draws serve twice.

    Args:
        model: a model or a bare Pyro program.
        guide: the guide; the better it is, the less is needed.
        x: the data.
        exact: draws of the exact posterior given ``x``, (draws, units, d). Of simulated data they are the latents it came
            from (``model.simulate``, then ``model.unconstrain``). ``None``: from ``model.posterior``, or where there is none
            from Markov chains that start at the guide; the bracket is then ``estimated``.
        method: ``nested``, ``importance`` or ``annealed``; ``None``: as above. Discrete latents: importance.
        draws: of nested weights those of the shared latents, ``None``: 512 to 2,048; of importance K, ``None``: 32,768 for one
            unit, down to 256 for large data, or where the program is run draw by draw.
        temperatures: of annealing; ``None``: as above.
        chains: K of annealing; ``None``: 16 for many units, up to 256 for few.
        seed: of all that is drawn.
        budget: what may be spent; ``None``: all that it takes.

    Raises:
        Unaffordable: Markov chains would take more than the budget.
        ZooError: ``exact`` has another shape, an unknown method, annealing of discrete latents, fewer than 2 draws or chains,
            or weights that are not numbers. A ``ZooWarning`` says where a wide bracket rests on chains that disagree.

    >>> import zoo, guides
    >>> x = zoo.dataset("iris").x
    >>> model = zoo.build("ppca", x, latent=2, start="random")
    >>> found = bracket(model, guides.build("prior", model, x), x)
    >>> found.lower_limit < float(model.log_evidence(x).detach().sum()) < found.upper_limit
    True
    """
    model = paired(model, guide)
    if method not in (None, *METHODS):
        raise ZooError(f"expected method to be one of {', '.join(METHODS)}; got '{method}'; choose one, or leave it out")
    budget, nested = budget or Budget(), None
    with evaluating(model, guide):
        if method == "nested" or (method is None and nests(model, x) and not _even(model, guide, x, seed)):
            nested = nested_bracket(model, guide, x, exact, draws=draws, seed=seed, budget=budget)
            if nested is not None and (method == "nested" or nested.width <= max(goal(1), target(1, budget))):
                return nested
        try:
            exact, rhat = take_draws(model, guide, x, exact, seed, budget)
        except Unaffordable:
            if nested is None:
                raise
            return nested
        found = None
        if method == "nested":
            found = nested_bracket(model, guide, x, exact, draws=draws, seed=seed, budget=budget)
        elif method != "annealed":
            found = importance_bracket(model, guide, x, exact, draws=draws, seed=seed, budget=budget)
        close = target(exact.shape[1], budget)
        if method in (None, "annealed") and not (found and (found.width <= close or model.latents(x).discrete)):
            found = anneal(model, guide, x, exact, AnnealingOptions(temperatures, chains, seed, budget), rival=found)
    assert found is not None, "one of the methods has run"
    if nested is not None and nested.width < found.width:
        return nested
    if rhat is None:
        return found
    found = replace(found, kind="estimated", rhat=rhat)
    if apart := found.apart(AGREED):
        warnings.warn(ZooWarning(
            f"Markov chains for {model.label} disagree in {apart} of {len(rhat)} units (R-hat up to {float(rhat.max()):.2f}): "
            "an upper bound that rests on them may be wrong; fit the guide better"), stacklevel=3)
    return found


def _even(model: Model, guide: BaseGuide, x: Data, seed: int) -> bool:
    """Return whether the guide's own weights are all but equal: it is the posterior, as far as its draws reach."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZooWarning)  # of draws that can't be evaluated: those of the bounds will be told of
            ess = log_weights(model, guide, x, EVEN_DRAWS, seed + Stream.IMPORTANCE).ess()
    except ZooError:  # a density that can't be evaluated: the bounds will say so
        return False
    return ess is not None and float((EVEN_DRAWS / ess - 1).sum()) < EVEN
