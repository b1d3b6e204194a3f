"""Fitting: three optimisers of one ELBO."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from experiments.em import Iteration, em
from experiments.engine import Outcome, threads_for
from experiments.fixed_draws import fixed_draws
from experiments.progress import Bar
from experiments.svi import svi
from experiments.weights import work
from guides.amortisation import Free
from guides.construct import build
from guides.guide import BaseGuide, Guide, paired
from guides.whole import Exact
from zoo.data import Data
from zoo.errors import ZooError, nearest
from zoo.model import Model
from zoo.program import Program, seeded

#: Steps that each method takes at most, where unsaid.
METHODS: Mapping[str, int] = {"em": 1000, "fixed_draws": 1000, "svi": 2000}


@dataclass(frozen=True)
class Fit:
    """A finished fit. ``model`` and ``guide`` hold the parameters it found.

    Attributes:
        method: ``em``, ``fixed_draws`` or ``svi``; ``none`` where there was nothing to fit.
        steps: iterations or gradient steps taken.
        seconds: of wall time.
        elbo: what the optimiser last saw, in nats, summed over units (``svi``: the mean of the last tenth of its steps). Use
            ``evaluate`` for one with its error.
        converged: whether the method's own rule for stopping was met (``svi``: the second half of the run raised the
            ELBO no more than noise or 0.02 nats per unit).
        stopped: why it stopped early, empty where it did not.
        history: (step, ELBO, seconds since the start).
        iterations: of EM: ELBO before and after the M-step, log p(x), gap.
    """

    model: Model
    guide: BaseGuide
    method: str
    steps: int
    seconds: float
    elbo: float | None
    converged: bool
    stopped: str = ""
    history: tuple[tuple[int, float, float], ...] = ()
    iterations: tuple[Iteration, ...] = field(default=(), repr=False)


def default_method(guide: BaseGuide) -> str:
    """Return ``em`` for exact, what the family says where each unit has its own φ, else ``svi``."""
    if isinstance(guide, Exact):
        return "em"
    free = isinstance(guide, Guide) and isinstance(guide.amortisation, Free)
    return guide.family.method if free else "svi"


def fit(
    model: Model | Program, guide: BaseGuide | str, x: Data, *, method: str | None = None, train_model: bool = True,
    steps: int | None = None, draws: int | None = None, batch_size: int | None = None, learning_rate: float | None = None,
    seed: int = 0, progress: bool | None = None,
) -> Fit:
    """Maximise the ELBO over φ and (``train_model``) θ, in place.

    Args:
        model: a model or a bare Pyro program.
        guide: a guide, or how one is written: it is then built on ``x``.
        x: the data.
        method: ``em``, ``fixed_draws`` or ``svi``; ``None``: what :func:`default_method` says.
        train_model: move θ too. A model without parameters has nothing to move.
        steps: at most; ``None``: 1,000 iterations of em and fixed_draws, 2,000 steps of svi.
        draws: of z per unit: of fixed_draws at the start and the end, of svi per step.
        batch_size: units per step of svi.
        learning_rate: of svi.
        seed: of all that is drawn: same seed, same machine, same bits. Torch's own generator is left as it was.
        progress: show a bar on standard error; ``None``: on a terminal only.

    Raises:
        ZooError: a guide that does not fit the model, an unknown method or one that can't fit this guide, negative steps,
            or an ELBO that is not finite at the start (the first such site is named).

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> round(fit(zoo.build("gmm", x), "exact", x).elbo, 2)
    -1130.26
    """
    model = paired(model, guide)
    _check_numbers(steps, draws, seed)
    if isinstance(guide, str):
        guide = build(guide, model, x, seed=seed)
    chosen = _chosen(method, guide, train_model, draws=draws, batch_size=batch_size, learning_rate=learning_rate)
    latents = model.latents(x)
    has_theta = train_model and any(p.requires_grad for p in model.parameters())
    if method is None and not has_theta and not guide.size:
        return Fit(model, guide, "none", 0, 0.0, None, True)
    limit = METHODS[chosen] if steps is None else steps
    history: list[tuple[int, float, float]] = []
    iterations: list[Iteration] = []
    begun = time.perf_counter()
    one = threads_for(work(x, latents.units, latents.size))
    with Bar(f"{model.label} · {guide.text}", limit, progress) as bar, seeded(seed), torch.enable_grad(), one:

        def report(step: int, elbo: float) -> None:
            history.append((step, elbo, time.perf_counter() - begun))
            bar.step(step, elbo)

        options: dict[str, Any] = {"steps": limit, "report": report}
        outcome: Outcome
        if chosen == "em":
            outcome = em(model, guide, x, iterations=iterations, **options)
        elif chosen == "fixed_draws":
            outcome = fixed_draws(model, guide, x, train_model=has_theta, draws=draws, seed=seed, **options)
        else:
            given: dict[str, Any] = {} if learning_rate is None else {"learning_rate": learning_rate}
            outcome = svi(model, guide, x, train_model=has_theta, draws=draws, batch_size=batch_size, **given, **options)
    guide.eval()
    return Fit(
        model, guide, chosen, outcome.steps, time.perf_counter() - begun, outcome.elbo, outcome.converged, outcome.stopped,
        tuple(history), tuple(iterations))


def _chosen(method: str | None, guide: BaseGuide, train_model: bool, **options: float | None) -> str:
    """Return the method to fit with, after checking that it is one and that it takes the options that were given."""
    chosen = method or default_method(guide)
    if chosen not in METHODS:
        raise ZooError(f"unknown method '{chosen}'{nearest(chosen, METHODS) or ';'} choose from {', '.join(METHODS)}")
    for name, value in options.items():
        methods = ("svi", "fixed_draws") if name == "draws" else ("svi",)
        if value is not None and chosen not in methods:
            raise ZooError(
                f"expected method {' or '.join(methods)} with {name}; got {chosen} for '{guide.text}'; leave {name} out")
    if method == "em" and not train_model:
        raise ZooError("expected train_model for method em, which moves θ alone; got train_model=False; leave method out")
    return chosen


def _check_numbers(steps: int | None, draws: int | None, seed: int) -> None:
    for name, value in (("steps", steps), ("draws", draws)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ZooError(f"expected 1 or more {name}; got {value}; leave it out for the default")
    if not isinstance(seed, int) or not 0 <= seed < 2**31:
        raise ZooError(f"expected a seed from 0 to 2**31 - 1; got {seed}; choose another")
