"""Families that contain others: where their fits begin, and that they never end below."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.comparison.plan import fit_comparison
from experiments.comparison.request import Request
from experiments.fits.journal import Journal
from experiments.inference.containment import quick_family, sibling
from guides.amortisation import Free
from guides.families.family import Family, Normal, Start
from guides.guide import Guide
from guides.registry import FAMILIES
from zoo.errors import ZooError
from zoo.model import Model
from zoo.nn.flows import Triangular
from zoo.registry import load

SE = 3  # standard errors of a paired difference that a richer guide may lie below by
PAIRS = [(inner, outer) for outer, entry in FAMILIES.items() for inner in entry.contains]
RICHER = [name for name, entry in FAMILIES.items() if entry.contains]


def year_line(y: Tensor) -> None:
    """A regression on a raw year: a and b correlate by −0.9999, and their scales are far apart."""
    like = torch.zeros((), dtype=y.dtype)
    a = pyro.sample("a", dist.Normal(like + 9.3, 100.0))
    b = pyro.sample("b", dist.Normal(like, 0.03))
    s = pyro.sample("s", dist.HalfNormal(like + 1000.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a + b * torch.arange(1952, 1952 + len(y)).to(y), s), obs=y)


def heights(data: dict[str, Tensor]) -> None:
    """A regression on raw columns: an intercept, a column of 100 ± 15, one of 0 and 1."""
    x, y = data["x"], data["y"]
    b = pyro.sample("b", dist.Normal(torch.zeros(3, dtype=y.dtype), 10.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(torch.tensor(10.0, dtype=y.dtype)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(b[0] + x @ b[1:], s), obs=y)


def funnel(y: Tensor) -> None:
    """v ~ N(0, 2²), w_i ~ N(0, eᵛ), y_i ~ N(w_i, 1): a posterior like a funnel."""
    v = pyro.sample("v", dist.Normal(torch.zeros((), dtype=y.dtype), 2.0))
    with pyro.plate("rows", len(y)):
        w = pyro.sample("w", dist.Normal(torch.zeros((), dtype=y.dtype), (v / 2).exp()))
        pyro.sample("y", dist.Normal(w, 1.0), obs=y)


@cache
def case(name: str) -> tuple[Model, zoo.Data]:
    if name == "eight schools":
        x = zoo.dataset("eight_schools").x
        return zoo.build("eight_schools", x), x
    with zoo.seeded(0):
        if name == "year":
            y = 9.3 + 0.02 * (torch.arange(62, dtype=torch.double) - 31) + torch.randn(62, dtype=torch.double)
            return zoo.as_model(year_line), y
        if name == "columns":
            x = torch.stack([100 + 15 * torch.randn(60), (torch.rand(60) > 0.3).float()], 1).double()
            y = 26 + 0.6 * x[:, 0] + 6 * x[:, 1] + 18 * torch.randn(60, dtype=torch.double)
            return zoo.as_model(heights), {"x": x, "y": y}
        return zoo.as_model(funnel), torch.tensor([0.3, -1.0, 2.0, 0.4], dtype=torch.double)


@cache
def fitted(name: str, text: str) -> experiments.Fit:
    """A fit by itself: of svi as few steps as show that it does not fall. Shared: do not move φ."""
    model, x = case(name)
    return experiments.fit(model, text, x, steps=(100 if name == "funnel" else 40) if text in ("flow", "mixture") else None)


def below(name: str, inner: Guide | guides.BaseGuide, outer: Guide | guides.BaseGuide) -> tuple[float, float]:
    """By how much the ELBO of ``outer`` is below that of ``inner``, and the standard error, on the same seed."""
    model, x = case(name)
    one, other = (experiments.log_weights(model, guide, x, 4000, seed=5).log_weight.sum(1) for guide in (inner, outer))
    return float((one - other).mean()), float((one - other).std()) / math.sqrt(len(one))


def check_never_below(name: str, inner: guides.BaseGuide, outer: guides.BaseGuide) -> None:
    lost, error = below(name, inner, outer)
    assert lost <= SE * error + 1e-9, f"{outer.text} is {lost:.4f} ± {error:.4f} nats below {inner.text}"


# -- the families --------------------------------------------------------------------------------------------------------


def member(name: str, units: int) -> tuple[Family, dict[str, Tensor]]:
    """A normal of a family with a loc and a covariance as wild as it has them."""
    family = load(FAMILIES[name].path)()
    phi = family.initial(Start(torch.randn(units, 4).double(), torch.rand(units, 4).double() + 0.1, None))
    return family, {key: value + torch.randn_like(value) for key, value in phi.items()}


def test_containment_is_transitive() -> None:
    assert PAIRS
    for inner, outer in PAIRS:
        assert set(FAMILIES[inner].contains) <= set(FAMILIES[outer].contains), (inner, outer)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize(("inner", "outer"), PAIRS)
@torch.no_grad()
def test_the_embedded_member_is_the_contained_one(inner: str, outer: str, units: int) -> None:
    with zoo.seeded(1):
        contained, phi = member(inner, units)
        family, initial = member(outer, units)
        assert isinstance(contained, Normal)
        q = contained.distribution(phi)
        z = q.sample(torch.Size([20])) + torch.randn(20, units, 4, dtype=torch.double)
        embedded = family.embed(phi, contained)
        loose = family.loosen(embedded)
    assert set(embedded) == set(loose) == {*initial, *family.constants(phi)}
    assert all(embedded[key].shape == value.shape for key, value in initial.items())
    torch.testing.assert_close(family.distribution(embedded).log_prob(z), q.log_prob(z), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(contained.scale_tril(phi) @ contained.scale_tril(phi).mT, covariance(q), rtol=1e-9, atol=1e-9)


def covariance(q: torch.distributions.Distribution) -> Tensor:
    matrix: Tensor = q.covariance_matrix if hasattr(q, "covariance_matrix") else torch.diag_embed(q.variance)
    return matrix


@pytest.mark.parametrize("outer", RICHER)
def test_a_gradient_leads_on_from_the_embedded_member(outer: str) -> None:
    """Off a stationary point, and off one at which parts of a guide are alike and would stay so."""
    model, x = case("funnel")
    guide = guides.build(outer, model, x)
    assert isinstance(guide, Guide)
    with zoo.seeded(1), torch.no_grad():
        contained = guides.build(FAMILIES[outer].contains[-1], model, x)
        assert isinstance(contained, Guide)
        assert isinstance(guide.amortisation, Free)
        guide.amortisation.put(guide.family.loosen(guide.family.embed(contained.phi(x), contained.family)))  # type: ignore[arg-type]
    with zoo.seeded(2):
        z = guide.posterior(x).rsample(torch.Size([200]))
        (model.log_joint(x, z) - guide.posterior(x).log_prob(z)).mean().backward()
    assert all(bool((p.grad != 0).any()) for p in guide.amortisation.phi.values() if p.numel())
    if outer == "mixture":
        slope = guide.amortisation.phi["loc"].grad
        assert float((slope - slope.mean(1, keepdim=True)).abs().max()) > 1e-3


def test_what_fits_begin_at() -> None:
    model, x = case("funnel")
    built = {text: guides.build(text, model, x) for text in ("mean_field", "low_rank", "full_rank", "flow", "mixture")}
    assert {text: quick_family(guide, 5) for text, guide in built.items()} == {
        "mean_field": None, "low_rank": "mean_field", "full_rank": "mean_field", "flow": "full_rank", "mixture": "mean_field"}
    assert quick_family(built["flow"], 1000) == "mean_field", "a quick fit is of few numbers"
    fits = [built["mean_field"], built["low_rank"], built["mixture"]]
    assert sibling(built["flow"], fits) is built["low_rank"]
    assert sibling(built["mixture"], fits) is built["mean_field"]
    assert sibling(built["mean_field"], fits) is None
    assert sibling(guides.build("prior", model, x), fits) is None


def test_triangular_map_is_that_of_a_normal() -> None:
    with zoo.seeded(0):
        loc, factor = torch.randn(3, 4, dtype=torch.double), torch.randn(3, 4, 4, dtype=torch.double).tril()
        x = torch.randn(2, 5, 3, 4, dtype=torch.double)
    place = Triangular(loc, factor)
    torch.testing.assert_close(place.inv(place(x)), x)
    found = -0.5 * place(x).square().sum(-1) - 2 * math.log(2 * math.pi) + place.log_abs_det_jacobian(x, place(x))
    normal = torch.distributions.MultivariateNormal(loc, factor @ factor.mT)
    torch.testing.assert_close(found, normal.log_prob(x))


# -- fits by themselves --------------------------------------------------------------------------------------------------


# Steps of Adam on a mixture of components in a raw year's units lead nowhere: svi says so, and the contained normal is kept.
@pytest.mark.filterwarnings("ignore:fit of 'mixture' diverged")
@pytest.mark.parametrize("name", ["year", "columns", "eight schools", "funnel"])
@pytest.mark.parametrize("outer", RICHER)
def test_no_fit_ends_below_a_contained_one(name: str, outer: str) -> None:
    done = fitted(name, outer)
    inner = quick_family(done.guide, done.model.latents(case(name)[1]).size)
    assert inner is not None
    check_never_below(name, fitted(name, inner).guide, done.guide)


def test_a_flow_bends_further_than_the_normal_it_begins_at() -> None:
    lost, error = below("funnel", fitted("funnel", "full_rank").guide, fitted("funnel", "flow").guide)
    assert lost < -5 * error


class Spoil(experiments.Callback):
    """Moves a flow off by half a posterior deviation after the last step."""

    def on_step(self, now: experiments.Moment) -> None:
        if now.step == now.limit:
            assert isinstance(now.guide, Guide)
            with torch.no_grad():
                now.guide.amortisation.phi["loc"] += 0.5  # type: ignore[union-attr, operator]


def test_a_fit_that_falls_is_put_back_to_where_it_began_and_says_so() -> None:
    model, x = case("year")
    normal = fitted("year", "full_rank")
    done = experiments.fit(model, "flow", x, steps=20, callbacks=[Spoil()])
    lost, error = below("year", normal.guide, done.guide)
    assert abs(lost) < SE * error + 1e-9
    assert not done.converged
    assert "nats below the full_rank that it contains, which is kept" in done.stopped
    assert done.elbo == pytest.approx(normal.elbo, abs=0.1)
    assert done.states is not None
    assert done.states.best_step == 0


def test_a_fit_of_another_bound_is_not_judged_by_the_elbo() -> None:
    """Its best q covers more than the ELBO's."""
    model, x = case("year")
    done = experiments.fit(model, "flow", x, steps=20, callbacks=[Spoil()], objective="iwae")
    assert "which is kept" not in done.stopped
    assert below("year", fitted("year", "full_rank").guide, done.guide)[0] > 0.1


def test_a_built_guide_is_left_where_it_is() -> None:
    model, x = case("funnel")
    guide = guides.build("full_rank", model, x)
    before = guide.phi(x)["loc"].detach().clone() if isinstance(guide, Guide) else None
    seen: list[Tensor] = []

    class Begun(experiments.Callback):
        def on_start(self, now: experiments.Moment) -> None:
            assert isinstance(now.guide, Guide)
            seen.append(now.guide.phi(x)["loc"].detach().clone())

    experiments.fit(model, guide, x, steps=2, callbacks=[Begun()])
    experiments.fit(model, "full_rank", x, steps=2, callbacks=[Begun()])
    experiments.fit(model, "full_rank", x, steps=2, callbacks=[Begun()], start="own")
    experiments.fit(model, "full_rank", x, steps=2, callbacks=[Begun()], start=fitted("funnel", "mean_field").guide)
    assert before is not None
    assert torch.equal(seen[0], before)
    assert torch.equal(seen[2], before)
    assert not torch.equal(seen[1], before)
    of_mean_field = fitted("funnel", "mean_field").guide.posterior(x).mean
    torch.testing.assert_close(seen[3], of_mean_field.detach())


def test_starts_of_other_kinds_are_refused() -> None:
    model, x = case("funnel")
    with pytest.raises(ZooError, match="expected start contained or own, or a fitted guide; got 'best'; choose one"):
        experiments.fit(model, "flow", x, start="best")
    with pytest.raises(ZooError, match="expected start as a fitted guide that 'mean_field' contains; got 'full_rank'"):
        experiments.fit(model, "mean_field", x, start=guides.build("full_rank", model, x))


# -- comparisons and journals --------------------------------------------------------------------------------------------


def test_a_comparison_fits_what_is_contained_first(tmp_path: Path) -> None:
    """A guide begins at its sibling, whatever the order asked; a quick fit is made only where there is none."""
    model, x = case("year")
    fits = fit_comparison(model, x, Request(["flow", "full_rank", "mean_field"]), steps=30, journal=Journal(tmp_path)).fits
    flow, full, mean = (done.guide for done in fits)
    assert [guide.text for guide in (flow, full, mean)] == ["flow", "full_rank", "mean_field"]
    check_never_below("year", mean, full)
    check_never_below("year", full, flow)
    assert not list(tmp_path.glob("*/contained*"))
    alone = fit_comparison(model, x, Request(["flow"]), steps=30, journal=Journal(tmp_path / "alone")).fits
    check_never_below("year", full, alone[0].guide)
    assert list(tmp_path.glob("alone/*/contained*"))


@pytest.mark.parametrize("text", ["full_rank", "flow"])
def test_a_fit_that_is_cut_off_ends_with_the_same_bits(text: str, tmp_path: Path) -> None:
    """In the quick fit, and in its own."""
    model, x = case("funnel")
    whole = experiments.fit(model, text, x, steps=30)
    for begun in ("contained", "own"):
        journal = Journal(tmp_path / begun, interval=0.0)
        stop = Cut(journal, 3 if begun == "own" else None)
        if begun == "contained":
            journal.stop.signal = 15  # asked for before the first step: the quick fit is what is cut off
        with pytest.raises(zoo.errors.Interrupted):
            experiments.fit(model, text, x, steps=30, journal=journal, callbacks=[stop])
        journal.stop.signal = None
        again = experiments.fit(model, text, x, steps=30, journal=journal)
        assert again.elbo == whole.elbo
        for name, value in whole.guide.state_dict().items():
            assert torch.equal(again.guide.state_dict()[name], value), name
        restored = experiments.fit(model, text, x, steps=30, journal=journal)
        assert all(torch.equal(restored.guide.state_dict()[name], v) for name, v in whole.guide.state_dict().items())


class Cut(experiments.Callback):
    """Asks a fit to stop after a step."""

    def __init__(self, journal: Journal, step: int | None):
        self.journal, self.step = journal, step

    def on_step(self, now: experiments.Moment) -> None:
        if now.step == self.step:
            self.journal.stop.signal = 15
