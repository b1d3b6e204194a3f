"""Guides that stock Pyro has trained, their parameters in Pyro's own store: evaluated as they are, the store left as it is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, autoguide
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence

import experiments
import zoo
from tests import ROOT
from zoo.errors import ZooError

SE = 5  # standard errors that a true claim may miss by, with fixed seeds

with zoo.seeded(0):
    X = torch.randn(20, 2) + 1.0
    ROWS = torch.randn(60, 2) @ torch.randn(2, 5) + 0.3 * torch.randn(60, 5)
    COVARIATES = torch.randn(30, 2)
    Y = COVARIATES @ torch.tensor([1.0, -1.0]) + 0.5 * torch.randn(30)


def level(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)


def level_posterior(x: Tensor) -> Any:
    """The conjugate posterior of ``level``."""
    variance = 1 / (1 / 4 + len(x))
    return dist.Normal(variance * x.sum(0), torch.full((2,), math.sqrt(variance))).to_event(1)


def level_guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(2))
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    pyro.sample("mu", dist.Normal(loc, scale).to_event(1))


def noisy_level(x: Tensor) -> None:
    noise = pyro.param("noise", torch.tensor(2.0), constraint=constraints.positive)
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mu, noise).to_event(1), obs=x)


def batched_level(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    with pyro.plate("rows", len(x), subsample_size=5) as index:
        pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x[index])


def local(x: Tensor) -> None:
    with pyro.plate("rows", len(x), subsample_size=5) as index:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[index])


def local_guide(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(len(x), 2))
    scale = pyro.param("scale", torch.ones(len(x), 2), constraint=constraints.positive)
    with pyro.plate("rows", len(x), subsample_size=5) as index:
        pyro.sample("z", dist.Normal(loc[index], scale[index]).to_event(1))


def line(x: Tensor, y: Tensor | None = None) -> None:
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ slope, 0.5), obs=y)


def line_guide(x: Tensor, y: Tensor | None = None) -> None:
    scale_tril = pyro.param("scale_tril", 0.3 * torch.eye(2), constraint=constraints.lower_cholesky)
    pyro.sample("slope", dist.MultivariateNormal(pyro.param("loc", torch.zeros(2)), scale_tril=scale_tril))


def line_guide_by_other_names(covariates: Tensor, _: Tensor) -> None:
    line_guide(covariates)


def line_guide_of_anything(*args: Tensor) -> None:
    line_guide(args[0])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.loc, self.log_scale = nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x).tanh()
        return self.loc(hidden), self.log_scale(hidden).exp()


class VAE(nn.Module):
    """As in Pyro's tutorial: model and guide are methods, networks are registered by pyro.module."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(), nn.Linear(2, 5)

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(*self.encoder(x)).to_event(1))


class EncoderGuide(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(*self.encoder(x)).to_event(1))


def train(model: Any, guide: Any, *args: Tensor, steps: int = 60, batches: int = 1) -> None:
    """Train a pair by stock Pyro, whose store then holds the parameters; on ``batches`` of the rows in turn."""
    pyro.set_rng_seed(0)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for step in range(steps):
        svi.step(*(arg[step % batches::batches] for arg in args))


def stock_elbo(model: Any, guide: Any, *args: Tensor, draws: int = 300) -> tuple[float, float]:
    """Return Pyro's own estimate of the ELBO and its standard error."""
    with torch.no_grad(), zoo.seeded(1):
        values = torch.tensor([-Trace_ELBO().loss(model, guide, *args) for _ in range(draws)])
    return float(values.mean()), float(values.std()) / math.sqrt(draws)


def stored() -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in pyro.get_param_store().items()}


@contextmanager
def store_untouched() -> Iterator[None]:
    before, held = stored(), dict(pyro.get_param_store().named_parameters())
    yield
    after = stored()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(value is held[name] for name, value in pyro.get_param_store().named_parameters())


def guide_of_parts() -> Any:
    guide = autoguide.AutoGuideList(level)
    guide.append(autoguide.AutoMultivariateNormal(poutine.block(level, expose=["mu"])))
    return guide


#: What was trained: the pair, its data, and how many minibatches the rows were taken in.
CASES: dict[str, Callable[[], tuple[Any, Any, tuple[Tensor, ...], int]]] = {
    "AutoNormal": lambda: (level, autoguide.AutoNormal(level), (X,), 1),
    "AutoMultivariateNormal": lambda: (level, autoguide.AutoMultivariateNormal(level), (X,), 1),
    "AutoLowRankMultivariateNormal": lambda: (level, autoguide.AutoLowRankMultivariateNormal(level), (X,), 1),
    "AutoIAFNormal": lambda: (level, autoguide.AutoIAFNormal(level), (X,), 1),
    "AutoGuideList": lambda: (level, guide_of_parts(), (X,), 1),
    "function": lambda: (level, level_guide, (X,), 1),
    "function, θ in the store": lambda: (noisy_level, level_guide, (X,), 1),
    "AutoNormal, θ in the store": lambda: (noisy_level, autoguide.AutoNormal(noisy_level), (X,), 1),
    "VAE": lambda: ((vae := VAE()).model, vae.guide, (ROWS,), 1),
    "VAE by minibatches": lambda: ((vae := VAE()).model, vae.guide, (ROWS,), 3),
    "PyroModule": lambda: (VAE().model, EncoderGuide(), (ROWS,), 1),
    "arguments": lambda: (line, line_guide, (COVARIATES, Y), 1),
    "arguments of other names": lambda: (line, line_guide_by_other_names, (COVARIATES, Y), 1),
    "arguments of no names": lambda: (line, line_guide_of_anything, (COVARIATES, Y), 1),
    "arguments, AutoNormal": lambda: (line, autoguide.AutoNormal(line), (COVARIATES, Y), 1)}


@pytest.mark.parametrize("case", CASES)
def test_a_trained_guide_has_stock_pyro_s_elbo(case: str) -> None:
    with zoo.seeded(0):
        model, guide, args, batches = CASES[case]()
    train(model, guide, *args, batches=batches)
    expected, se = stock_elbo(model, guide, *args)
    with store_untouched():
        elbo = experiments.evaluate(model, guide, *args, effort="none").elbo
    assert abs(elbo.value - expected) <= SE * math.hypot(se, elbo.se)


@pytest.mark.parametrize(("model", "make"), [
    (batched_level, lambda: level_guide), (batched_level, lambda: autoguide.AutoNormal(batched_level)),
    (local, lambda: local_guide), (local, lambda: autoguide.AutoNormal(local))])
def test_subsampling_pairs_are_evaluated_on_all_rows(model: Any, make: Any) -> None:
    """Stock Pyro's estimates are of some rows at a time, and right on average over rows, too."""
    guide = make()
    train(model, guide, X, steps=300)
    expected, se = stock_elbo(model, guide, X, draws=600)
    with store_untouched():
        elbo = experiments.evaluate(model, guide, X, effort="none").elbo
    assert se > 3 * elbo.se
    assert abs(elbo.value - expected) <= SE * math.hypot(se, elbo.se)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gap_is_the_divergence_from_the_conjugate_posterior(dtype: torch.dtype) -> None:
    """The guide's parameters are float32, as stock Pyro trained them, whatever the data are evaluated in."""
    train(level, level_guide, X, steps=100)
    store = pyro.get_param_store()
    q = dist.Normal(store["loc"].detach(), store["scale"].detach()).to_event(1)
    expected = float(kl_divergence(q, level_posterior(X)))
    done = experiments.evaluate(level, level_guide, X.to(dtype))
    assert expected > 10 * done.kl_gap.se
    assert abs(done.kl_gap.value - expected) <= SE * done.kl_gap.se + 1e-4


@pytest.mark.parametrize("kind", [
    autoguide.AutoNormal, autoguide.AutoMultivariateNormal, autoguide.AutoLowRankMultivariateNormal, autoguide.AutoIAFNormal])
def test_a_store_that_was_saved_and_loaded_fills_a_new_autoguide(kind: Any, tmp_path: Path) -> None:
    guide = kind(level)
    train(level, guide, X)
    expected = experiments.evaluate(level, guide, X, effort="none").elbo
    pyro.get_param_store().save(tmp_path / "store")
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store")
    with store_untouched():
        assert experiments.evaluate(level, kind(level), X, effort="none").elbo.value == expected.value
        assert experiments.evaluate(level, kind, X, effort="none").elbo.value < expected.value - 5  # a class: a new guide


def test_discrete_guides_and_theta_agree_with_enumeration() -> None:
    def mixture(x: Tensor) -> None:
        weights = pyro.param("weights", torch.ones(2) / 2, constraint=constraints.simplex)
        loc = pyro.param("loc", torch.tensor([-1.0, 1.0]))
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(weights), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        logits = pyro.param("logits", torch.zeros(len(x), 2))
        with pyro.plate("rows", len(x)):
            pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    x, elbo = X[:, 0], TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(mixture, guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    for _ in range(50):
        svi.step(x)
    assert experiments.evaluate(mixture, guide, x).elbo.value == pytest.approx(-elbo.loss(mixture, guide, x), rel=1e-5)


def test_a_fit_goes_on_from_the_store_and_leaves_it() -> None:
    train(level, level_guide, X, steps=200)
    trained = experiments.evaluate(level, level_guide, X, effort="none").elbo
    with store_untouched():
        fit = experiments.fit(level, level_guide, X, method="svi", steps=20, learning_rate=0.001)
    assert fit.history[0][1] > trained.value - 3  # 30 nats below, it would begin anew
    assert not torch.equal(fit.guide.params["loc"], pyro.param("loc"))


@pytest.mark.parametrize("make", [lambda: level_guide, lambda: autoguide.AutoNormal(level)])
def test_another_program_s_parameters_are_told(make: Any) -> None:
    pyro.param("loc", torch.zeros(3))
    pyro.param("AutoNormal.locs.mu", torch.zeros(3))
    with pytest.raises(ZooError) as caught:
        experiments.evaluate(level, make(), X)
    assert "of shape (2,); got (3,) in Pyro's parameter store; if that is another program's, call" in str(caught.value)


def test_a_network_that_was_made_anew_is_not_the_store_s() -> None:
    """pyro.module registers a network: what runs is the network itself, so its own weights count, as in stock Pyro."""
    with zoo.seeded(0):
        first, second = VAE(), VAE()
    train(first.model, first.guide, ROWS)
    expected, se = stock_elbo(second.model, second.guide, ROWS)
    elbo = experiments.evaluate(second.model, second.guide, ROWS, effort="none").elbo
    assert abs(elbo.value - expected) <= SE * math.hypot(se, elbo.se)
    guide = experiments.fit(second.model, second.guide, ROWS, method="svi", steps=2).guide
    assert {id(p) for p in guide.parameters()} == {id(p) for p in second.encoder.parameters()}


def test_the_readme_s_trained_guide_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    exec(compile(block, "README.md", "exec"), {})
    printed, said = (re.findall(r"-?\d+\.\d+", text) for text in (capsys.readouterr().out, block.rsplit("# ", 1)[1]))
    assert [float(part) for part in printed] == pytest.approx([float(part) for part in said], abs=0.02)
