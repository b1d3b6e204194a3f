"""Comparing guides on one model: same data, same θ, same draws' seed; one row a guide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.engine import frozen
from experiments.evaluation import Evaluation, Gap, evaluate, summarise
from experiments.fitting import Fit, fit
from experiments.marginal import Evidence, evidence
from experiments.weights import FRESH, Estimate, LogWeights, log_weights
from guides.construct import build
from guides.guide import BaseGuide, paired
from guides.registry import default_guides, parse
from zoo.data import Data
from zoo.errors import ZooError
from zoo.model import Model
from zoo.program import Program

if TYPE_CHECKING:
    import pandas as pd

@dataclass(frozen=True)
class Row:
    """One guide: how it was fitted and what came of it."""

    fit: Fit
    evaluation: Evaluation

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain numbers: totals over units, in nats and seconds."""
        e = self.evaluation
        return {
            "guide": e.guide, "elbo": _estimate(e.elbo), "kl_gap": _gap(e.kl_gap),
            "reconstruction": _estimate(e.reconstruction), "kl_prior": _estimate(e.kl_prior), "khat": e.khat, "ess": e.ess,
            "draws": e.draws, "parameters": self.fit.guide.size, "method": self.fit.method, "steps": self.fit.steps,
            "seconds": round(self.fit.seconds, 3), "converged": self.fit.converged, "stopped": self.fit.stopped}


@dataclass(frozen=True)
class Comparison:
    """The table of :func:`compare`. Printing it shows the table; ``to_dict`` is what ``--json`` prints.

    Attributes:
        model: with the θ on which all guides were compared.
        x: the data.
        data: what the data is called.
        evidence: log p(x | θ), of the best kind there is.
        rows: one a guide, in the order asked.
        theta: the fit of θ; ``None`` where the model has none.
    """

    model: Model
    x: Data
    data: str
    units: int
    seed: int
    evidence: Evidence
    rows: tuple[Row, ...]
    theta: Fit | None

    def guide(self, text: str) -> BaseGuide:
        """Return the fitted guide written ``text``.

        Raises:
            ZooError: if it was not compared.
        """
        for row in self.rows:
            if row.fit.guide.text == text:
                return row.fit.guide
        known = ", ".join(row.fit.guide.text for row in self.rows)
        raise ZooError(f"expected a guide of this comparison; got '{text}'; it has {known}")

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data, ready for JSON: numbers that are infinite or undefined are ``None``."""
        e = self.evidence
        found: dict[str, Any] = {
            "kind": e.kind, "value": e.value, "se": e.se, "lower": e.lower, "upper": e.upper, "guide": e.source or None}
        theta = None if self.theta is None else {
            "method": self.theta.method, "guide": self.theta.guide.text, "steps": self.theta.steps,
            "seconds": round(self.theta.seconds, 3), "converged": self.theta.converged, "stopped": self.theta.stopped}
        whole: dict[str, Any] = _finite({
            "model": self.model.label, "data": self.data, "units": self.units, "seed": self.seed, "log_evidence": found,
            "theta": theta, "guides": [row.to_dict() for row in self.rows]})
        return whole

    def to_frame(self) -> pd.DataFrame:
        """Return the table as a data frame, a row a guide; nats, totals and (``…_per_unit``) per unit."""
        import pandas as pd

        rows = []
        for row in self.rows:
            flat: dict[str, Any] = {}
            for key, value in row.to_dict().items():
                if isinstance(value, dict):
                    flat[key] = value["value"]
                    flat.update({f"{key}_{k}": v for k, v in value.items() if k not in ("value",)})
                    flat[f"{key}_per_unit"] = value["value"] / self.units
                else:
                    flat[key] = value
            flat["log_evidence"], flat["log_evidence_kind"] = self.evidence.value, self.evidence.kind
            rows.append(flat)
        return pd.DataFrame(rows).set_index("guide")

    def __str__(self) -> str:
        from experiments.render import plain

        return plain(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        html: str = self.to_frame().to_html()
        return html


def compare(
    model: Model | Program, x: Data, guides: str | BaseGuide | Sequence[str | BaseGuide] | None = None, *, seed: int = 0,
    method: str | None = None, train_with: str | None = None, steps: int | None = None, draws: int | None = None,
    data: str = "data",
    progress: bool | None = None,
) -> Comparison:
    """Fit θ once, fit every guide to that θ, and say how far each is from the posterior.

    θ is fitted by EM where the model knows its posterior; else jointly with a guide: the one that ``train_with`` names, or
    the first amortised one, or the first. A model without parameters is taken as it is.

    Args:
        model: a model or a bare Pyro program.
        x: the data.
        guides: as written, or built; ``None``: exact, each free family and one encoder, as far as they fit.
        seed: of all that is drawn.
        method: of the guides' fits; ``None``: each family's own.
        train_with: the guide to fit θ with; ``exact`` for EM.
        steps: of every fit, at most.
        draws: of the evaluation, per unit.
        data: what to call the data in the table.
        progress: show bars on standard error; ``None``: on a terminal only.

    Raises:
        ZooError: no guides, one twice, one that does not fit the model (all are checked before anything is fitted), or
            any error of :func:`fit` and :func:`evaluate`.

    >>> import zoo
    >>> x = zoo.dataset("faithful").x
    >>> table = compare(zoo.build("gmm", x), x, ["exact", "categorical"])
    >>> table.evidence.kind, round(table.evidence.value, 2)
    ('exact', -1130.26)
    """
    guides = [guides] if isinstance(guides, str | BaseGuide) else guides
    model = paired(model, next((g for g in guides or () if isinstance(g, BaseGuide)), None))
    guides = default_guides(model.facts(x)) if guides is None else guides
    if train_with is not None:
        parse(train_with).check(model.facts(x))
    built = _build(model, x, guides, seed)
    theta = _fit_theta(model, x, built, train_with, steps, seed, progress)
    with frozen(model):
        # θ has moved since the guides were built: those we built ourselves start afresh at this θ.
        built = _build(model, x, guides, seed) if theta is not None else built
        fits = [
            fit(model, guide, x, method=_method(method, guide), train_model=False, steps=steps, seed=seed,
                progress=progress)
            for guide in built]
        weights = [log_weights(model, guide, x, draws, seed + FRESH) for guide in built]
        found = evidence(model, x, _tightest(built, weights), seed=seed)
        rows = tuple(
            Row(done, summarise(weight, done.guide.text, found)) for done, weight in zip(fits, weights, strict=True))
    return Comparison(model, x, data, model.latents(x).units, seed, found, rows, theta)


def fit_one(
    model: Model | Program, x: Data, guide: str | BaseGuide, *, data: str = "data", draws: int | None = None, seed: int = 0,
    **options: Any,
) -> Comparison:
    """Fit θ and one guide together, and return the pair's row as a :class:`Comparison`; ``options`` are those of ``fit``."""
    done = fit(model, guide, x, seed=seed, **options)
    evaluation = evaluate(done.model, done.guide, x, draws=draws, seed=seed)
    theta = done if any(p.requires_grad and p.numel() for p in done.model.parameters()) else None
    return Comparison(
        done.model, x, data, evaluation.units, seed, evaluation.evidence, (Row(done, evaluation),), theta)


def _build(model: Model, x: Data, guides: Sequence[str | BaseGuide], seed: int) -> list[BaseGuide]:
    if not guides:
        raise ZooError("expected at least one guide to compare; got none; name some, e.g. mean_field")
    texts = [g if isinstance(g, str) else g.text for g in guides]
    specs = [parse(text) for text in texts]
    twice = next((spec.text for i, spec in enumerate(specs) if any(spec.same(other) for other in specs[:i])), None)
    if twice is not None:
        raise ZooError(f"expected each guide once; got '{twice}' twice; drop one")
    facts = model.facts(x)
    for spec, guide in zip(specs, guides, strict=True):
        spec.check(facts)
        paired(model, guide)
    return [build(g, model, x, seed=seed) if isinstance(g, str) else g for g in guides]


def _fit_theta(
    model: Model, x: Data, built: list[BaseGuide], train_with: str | None, steps: int | None, seed: int,
    progress: bool | None,
) -> Fit | None:
    if not any(p.requires_grad and p.numel() for p in model.parameters()):
        return None
    if train_with is None:
        amortised = [g.text for g in built if parse(g.text).amortisation not in ("", "free")]
        train_with = "exact" if model.facts(x).exact else (amortised or [built[0].text])[0]
    return fit(model, build(train_with, model, x, seed=seed), x, steps=steps, seed=seed, progress=progress)


def _method(method: str | None, guide: BaseGuide) -> str | None:
    # A guide without parameters has nothing to fit, whatever the method asked for the others.
    return method if method is not None and guide.size else None


def _tightest(built: list[BaseGuide], weights: list[LogWeights]) -> BaseGuide:
    """Return the guide with the most even weights: a bound on K draws lies below log p by about (1 / ESS share − 1) / 2K.

    Not the one of the highest bound, which would prefer lucky draws. The bound itself is drawn afresh.
    """
    shares = [0.0 if (ess := weight.ess()) is None else float(ess.log().nan_to_num(-1e3).mean()) for weight in weights]
    return built[max(range(len(built)), key=shares.__getitem__)]


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {"value": estimate.value, "se": estimate.se}


def _gap(gap: Gap) -> dict[str, float | None]:
    return {"value": gap.value, "se": gap.se, "lower": gap.lower, "upper": gap.upper}

