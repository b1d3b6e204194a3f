"""Methods of inference: the registry, options that everything else derives from, and Laplace's approximation."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import guides
import zoo
from experiments.fits.result import Outcome
from experiments.inference.method import Method, Problem
from experiments.inference.options import Options, option
from experiments.inference.registry import METHODS, MethodEntry, build_method, default_method, known_options
from experiments.log_evidence.log_weights import log_weights
from experiments.runs.spec import complete
from guides.registry import FAMILIES
from tests import ROOT
from zoo.errors import ZooError

# -- the registry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_a_registered_method_is_whole(name: str) -> None:
    assert build_method(name).name == name
    assert METHODS[name].summary
    for one in dataclasses.fields(METHODS[name].options):
        assert one.metadata["hidden"] or one.metadata["help"].endswith("."), one.name
    assert METHODS[name].options().limit >= (1000 if build_method(name).fits_density else 1)


def test_an_option_of_two_methods_is_one_to_the_command_line() -> None:
    by_key: dict[str, set[tuple[object, ...]]] = {}
    for entry in METHODS.values():
        for one in dataclasses.fields(entry.options):
            by_key.setdefault(one.metadata["key"] or one.name, set()).add((one.name, str(one.type), one.default))
    assert [key for key, kinds in by_key.items() if len(kinds) > 1] == []


@pytest.mark.parametrize(("text", "model", "method"), [
    ("exact", "gmm", "em"), ("exact", "flow", "svi"), ("categorical", "gmm", "fixed_draws"),
    ("categorical:encoder", "gmm", "svi"), ("mean_field", "ppca", "fixed_draws"), ("full_rank", "ppca", "fixed_draws"),
    ("low_rank", "ppca", "fixed_draws"), ("flow", "ppca", "svi"), ("mixture", "ppca", "svi"), ("full_rank:semi", "ppca", "svi"),
    ("prior", "ppca", "svi")])
def test_the_method_of_a_guide_where_nobody_says(text: str, model: str, method: str) -> None:
    x = zoo.dataset(zoo.MODELS[model].data, zoo.MODELS[model].takes).x
    built = zoo.build(model, x)
    assert default_method(guides.build(text, built, x), x) == method


def test_families_name_no_method() -> None:
    for file in (ROOT / "guides").glob("*.py"):
        assert not [name for name in METHODS if f'"{name}"' in file.read_text()], file


def test_fit_names_no_method() -> None:
    text = (ROOT / "experiments" / "inference" / "fit.py").read_text()
    assert not [name for name in METHODS if f'"{name}"' in text]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CentreOptions(Options):
    pull: float = option(0.5, "Share of the way.")


class Centre(Method[CentreOptions]):
    """A method of someone else's: it moves a mean-field guide's mean a share of the way to the mean of x, at each step."""

    name = "centre"

    def misfit(self, problem: Problem) -> str:
        return "" if problem.guide.text == "mean_field" else f"expected mean_field for method centre; got {problem.guide.text}"

    def run(self, problem: Problem, options: CentreOptions, watch: experiments.fits.callbacks.Watch) -> Outcome:
        loc = next(p for name, p in problem.guide.named_parameters() if name.endswith("loc")).detach()  # shares its memory
        assert isinstance(problem.x, Tensor)
        for step in range(1, options.limit + 1):
            loc += options.pull * (problem.x.mean() - loc)
            watch.step(step, -float((problem.x.mean() - loc).abs()))
        return Outcome(options.limit, -float((problem.x.mean() - loc).abs()), True)


def normal_mean(x: Tensor) -> None:
    """Conjugate: mu ~ N(0, 1), x_i ~ N(mu, 1)."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=torch.double), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def test_a_method_is_added_by_one_class_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {**METHODS, "centre": MethodEntry(f"{__name__}:Centre", "to the mean", f"{__name__}:CentreOptions")}
    monkeypatch.setattr("experiments.inference.registry.METHODS", added)
    x = torch.arange(5.0, dtype=torch.double)
    model = zoo.as_model(normal_mean)
    guide = guides.build("mean_field", model, x)
    before = float(guide.posterior(x).mean.detach())
    done = experiments.fit(model, guide, x, method="centre", steps=3, pull=0.5)
    assert (done.method, done.steps, len(done.history)) == ("centre", 3, 3)
    assert float(done.guide.posterior(x).mean.detach()) == pytest.approx(2 + (before - 2) * 0.5**3, abs=1e-12)
    with pytest.raises(ZooError, match="expected method centre with pull; got em for 'exact'; leave pull out"):
        experiments.fit(zoo.build("gmm", zoo.dataset("faithful").x), "exact", zoo.dataset("faithful").x, pull=0.1)
    with pytest.raises(ZooError, match="expected mean_field for method centre; got full_rank"):
        experiments.fit(zoo.as_model(normal_mean), "full_rank", x, method="centre")
    assert "pull" in known_options()
    spec = complete(model="eight_schools", guides=("mean_field",), method="centre", pull=0.25, command="fit")
    assert spec.fitting == {"pull": 0.25}
    assert spec.plain()["pull"] == 0.25


def test_a_fit_prints_as_a_few_lines() -> None:
    x = zoo.dataset("faithful").x
    model = zoo.build("gmm", x)
    text = repr(experiments.fit(model, "exact", x, steps=2))
    assert re.sub(r"[\d.]+ s$", "0 s", text.splitlines()[2]) == "  not converged after 2 steps, 0 s"
    assert text.splitlines()[0] == "Fit of 'exact' to gmm by em"
    assert re.fullmatch(r"  ELBO -\d{4}\.\d{4} nats, 272 units", text.splitlines()[1])
    assert text.splitlines()[3] == "  not converged: 2 steps; raise --steps"
    assert "nothing to fit" in repr(experiments.fit(model, "exact", x, train_model=False))


# -- options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "said"), [
    ({"steps": 0}, "expected steps as a whole number from 1; got 0; leave it out for the default"),
    ({"draws": 2.5}, "expected draws as a whole number from 1; got 2.5; leave it out for the default"),
    ({"batch_size": "many"}, "expected batch_size as a whole number from 1; got 'many'; leave it out for the default"),
    ({"patience": 0}, "expected patience as a whole number from 1; got 0; mend it"),
    ({"stepz": 1}, "unknown option 'stepz' of fit; did you mean 'steps'\\?"),
    ({"clip": 1.0}, "expected method svi with clip; got em for 'exact'; leave clip out"),
    ({"accelerate": True, "method": "svi"}, "expected method em with accelerate; got svi for 'exact'; leave accelerate out")])
def test_wrong_options_are_refused_in_one_line(given: dict[str, Any], said: str) -> None:
    x = zoo.dataset("faithful").x
    with pytest.raises(ZooError, match=said):
        experiments.fit(zoo.build("gmm", x), "exact", x, **given)


def test_a_comparison_says_which_options_no_fit_has() -> None:
    x = zoo.dataset("eight_schools").x
    with pytest.warns(zoo.ZooWarning, match="no fit of this comparison has clip: they are by fixed_draws"):
        experiments.compare(zoo.build("eight_schools", x), x, ["mean_field"], clip=1.0, draws=64)


# -- Laplace -------------------------------------------------------------------------------------------------------------


def test_laplace_is_exact_where_each_units_posterior_is_a_normal() -> None:
    x = zoo.dataset("iris").x
    model = zoo.build("ppca", x)
    experiments.fit(model, "exact", x)
    done = experiments.fit(model, "full_rank", x, method="laplace", train_model=False)
    q, posterior = done.guide.posterior(x), model.posterior(x)
    assert done.converged
    torch.testing.assert_close(q.mean, posterior.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(q.covariance_matrix, posterior.covariance_matrix, rtol=1e-8, atol=1e-10)


def test_laplace_of_a_logistic_regression_has_the_textbooks_covariance() -> None:
    """(Xᵀ W X + S⁻¹)⁻¹ at the mode, W = p (1 − p), S the prior's."""
    data = zoo.dataset("breast_cancer", "binary", standardise=True).x
    model = zoo.build("logistic_regression", data)
    done = experiments.fit(model, "full_rank", data, method="laplace")
    q = done.guide.posterior(data)
    assert done.converged
    assert done.objective == "log p(x, z)"
    assert done.elbo is None, "what it maximises is no ELBO"
    mode = q.mean.detach().requires_grad_()
    value = model.log_joint(data, mode[None]).sum()
    [slope] = torch.autograd.grad(value, [mode])
    assert float((slope @ q.covariance_matrix[0] @ slope.mT).detach()) < 1e-5, "the slope promises nothing at the mode"
    hessian = torch.autograd.functional.hessian(lambda z: model.log_joint(data, z[None, None]).sum(), mode.detach()[0])
    torch.testing.assert_close(q.covariance_matrix[0].detach(), torch.linalg.inv(-hessian), rtol=1e-6, atol=1e-10)


def test_the_elbo_of_laplace_is_below_that_of_the_best_normal() -> None:
    data = zoo.dataset("breast_cancer", "binary", standardise=True).x
    model = zoo.build("logistic_regression", data)
    laplace = experiments.fit(model, "full_rank", data, method="laplace").guide
    best = experiments.fit(model, "full_rank", data).guide
    one, other = (log_weights(model, guide, data, 4096, 1).elbo() for guide in (laplace, best))
    assert one.value < other.value - 5 * one.se


def two_peaks_and_a_saddle(y: Tensor) -> None:
    """The density of w has its start, 0, for a saddle."""
    w = pyro.sample("w", dist.Normal(torch.zeros((), dtype=y.dtype), 1.0))
    pyro.sample("y", dist.Normal(w**2, 0.5), obs=y)


def test_laplace_where_the_ascent_ends_on_no_peak() -> None:
    y = torch.tensor(4.0, dtype=torch.double)
    model = zoo.as_model(two_peaks_and_a_saddle)
    guide = guides.build("full_rank", model, y)
    with torch.no_grad():
        next(p for name, p in guide.named_parameters() if name.endswith("loc")).zero_()
    before = guide.posterior(y).covariance_matrix.clone()
    done = experiments.fit(model, guide, y, method="laplace")
    assert not done.converged
    assert "not converged: log p(x, z) has no peak where its ascent ended" in done.stopped
    assert torch.equal(guide.posterior(y).covariance_matrix, before), "the guide is left as it was"


@pytest.mark.parametrize(("model", "text", "said"), [
    ("ppca", "full_rank", "expected train_model=False with method laplace"),
    ("eight_schools", "mean_field", "got 'mean_field'; use full_rank"),
    ("eight_schools", "flow", "got 'flow'; use full_rank"),
    ("ppca", "full_rank:encoder", "got 'full_rank:encoder'; use full_rank")])
def test_what_laplace_can_not_fit(model: str, text: str, said: str) -> None:
    x = zoo.dataset(zoo.MODELS[model].data, zoo.MODELS[model].takes).x
    with pytest.raises(ZooError, match=said):
        experiments.fit(zoo.build(model, x), text, x, method="laplace")


@pytest.mark.parametrize("name", [name for name, entry in FAMILIES.items() if entry.contains or name == "mean_field"])
def test_what_a_family_says_of_covariances_is_true(name: str) -> None:
    from guides.families.family import Normal, Start
    from zoo.registry import load

    family = load(FAMILIES[name].path)()
    if not isinstance(family, Normal):
        return
    loc, factor = torch.randn(2, 3).double(), torch.linalg.cholesky(torch.eye(3).double() + 0.5)
    if family.any_covariance:
        q = family.distribution(family.of_normal(loc, factor.expand(2, 3, 3)))
        torch.testing.assert_close(q.covariance_matrix, (factor @ factor.mT).expand(2, 3, 3))
    else:
        with pytest.raises(NotImplementedError, match="does not hold normals of any covariance"):
            family.of_normal(loc, factor.expand(2, 3, 3))
    assert set(family.initial(Start(loc, torch.ones_like(loc), None)))
