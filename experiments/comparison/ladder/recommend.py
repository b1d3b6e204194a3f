"""The verdict: the cheapest guide that is near enough to the posterior, found by climbing a ladder of guides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.comparison.ladder.climb import Climb
from experiments.comparison.ladder.recommendation import Recommendation
from experiments.comparison.ladder.rungs import LADDER, Rung, Terrain, rungs
from experiments.comparison.plan import ComparisonPlan
from experiments.fits.callbacks import Callback
from experiments.fits.progress import display
from experiments.inference.registry import check_options
from experiments.runtime.holdout import partition
from guides.spec import split_commas
from zoo.bare import as_model, given
from zoo.errors import ZooError, check_number
from zoo.model import Model
from zoo.program.run import Program


def recommend(
    model: Model | Program, *x: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, tolerance: float = 0.1,
    quantities: Sequence[str] = (), rungs: Sequence[str] | None = None, amortised: bool | None = None, effort: str = "default",
    seed: int = 0, progress: bool | None = None, callbacks: Sequence[Callback] = (), pure: bool | None = None, **options: Any,
) -> Recommendation:
    """Climb a ladder of guides, from the cheapest to the dearest, and stop at the first that is near enough.

    θ is fitted first, where the model has any, and then held. A rung is near enough where the upper end of its gap's interval
    is at most ``tolerance`` nats a unit; or, with ``quantities``, where these have errors of means below 0.1 standard
    deviations and standard deviations right to 10%. Each rung starts from those below. log p(x | θ) is looked for only where
    a rung's own importance weights do not tell that it is too low.

    Args:
        model: a model or a bare Pyro program.
        x, args, kwargs: the data, or all arguments of the program; see :func:`experiments.compare`.
        tolerance: nats, of each unit, between the posterior and a guide that is near enough.
        quantities: names of sites, as ``tau``, or of one entry, as ``theta[3]``, that are to be right.
        rungs: guides to climb, as they are written, in place of the ladder's own; ``BEST`` stands for the best so far.
        amortised: whether guides are networks of x; ``None``: where the model has a network for a decoder.
        effort: of the evaluations, see :data:`experiments.runtime.effort.EFFORTS`; ``none`` can't tell a gap.
        seed: of all that is drawn.
        progress: show a display on standard error; ``None``: on a terminal only.
        callbacks, pure: as of :func:`experiments.fit`.
        options: of the fits, each for those whose method has it.

    Raises:
        ZooError: a tolerance that is not positive, effort ``none``, no rung for this model, a quantity that it lacks, or any
            error of :func:`experiments.fit` on each rung.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> print(recommend(zoo.build("gmm", x), x).sentence)
    exact is the posterior; stop here
    """
    check_number("tolerance", tolerance, least=0.0)
    if not tolerance > 0:
        raise ZooError(f"expected a tolerance above 0 nats; got {tolerance:g}; a gap's interval is never that narrow")
    if effort == "none":
        raise ZooError("expected an effort that can tell a gap; got none; use quick, default or thorough")
    check_number("seed", seed, whole=True, least=0, most=2**31 - 1, mend="choose another")
    check_options(options)
    quantities = (quantities,) if isinstance(quantities, str) else tuple(map(str, quantities))
    rungs = split_commas(rungs) if isinstance(rungs, str) else None if rungs is None else [*map(str, rungs)]
    model, data = as_model(model), given(model, *x, *args, **(kwargs or {}))
    with display(progress) as live:
        how = {"progress": live or False, "callbacks": callbacks, "pure": pure}
        plan = ComparisonPlan(
            model, partition(data, model.latents(data).units, 0.0), None, seed, None, how, options)
        ground = Terrain.of(model, plan.x, amortised)
        if amortised and ground.facts.units != "rows":
            raise ZooError(
                f"expected rows with latents of their own for networks; got {ground.facts.name}, which has latents that all "
                "rows share; leave amortised out")
        climb = Climb(plan, ground, tolerance * ground.units, tuple(quantities), effort, _asked(rungs, ground), live)
        return climb.to_the_end()


def _asked(texts: Sequence[str] | None, ground: Terrain) -> list[Rung]:
    """Return the rungs to climb."""
    known = {rung.text: rung for rung in LADDER}
    if texts is not None and not texts:
        raise ZooError("expected rungs to climb; got none; name some, e.g. mean_field, or leave rungs out")
    found = [*rungs(ground)] if texts is None else [known.get(text, Rung(text, "what was asked for")) for text in texts]
    if not found:
        raise ZooError(f"expected latents to infer; got {ground.facts.name}, which has none; fit θ with 'exact'")
    return found
