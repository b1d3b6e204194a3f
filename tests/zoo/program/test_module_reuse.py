"""A user's PyroModule comes out of the zoo as it went in, but for its trained parameters, and can go in again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

import experiments
import zoo
import zoo.model

Rows = dict[str, Tensor]


class Regression(PyroModule):
    """The tutorial's Bayesian regression: all of its parameters are latent."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 1)
        self.linear.weight = PyroSample(dist.Normal(torch.zeros(()).double(), 1.0).expand([1, 2]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(torch.zeros(()).double(), 3.0).expand([1]).to_event(1))

    def forward(self, d: Rows) -> Tensor:
        mean = self.linear(d["X"]).squeeze(-1)
        with pyro.plate("rows", len(d["X"])):
            value: Tensor = pyro.sample("y", dist.Normal(mean, 0.5), obs=d.get("y"))
        return value


class Trained(PyroModule):
    """θ of all sorts beside one latent a row: a constrained parameter, a layer of torch's and one of Pyro's."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = PyroParam(torch.tensor(1.0), constraints.positive)
        self.plain = nn.Linear(2, 1)
        self.linear = PyroModule[nn.Linear](2, 1)
        self.double()

    def forward(self, d: Rows) -> Tensor:
        mean = (self.plain(d["X"]) + self.linear(d["X"])).squeeze(-1)
        with pyro.plate("rows", len(d["X"])):
            high = pyro.sample("high", dist.Bernoulli(torch.tensor(0.3).to(mean)), infer={"enumerate": "parallel"})
            value: Tensor = pyro.sample("y", dist.Normal(mean + 3 * high, self.noise), obs=d.get("y"))
        return value


@pytest.fixture
def rows() -> Rows:
    torch.manual_seed(0)
    x = torch.randn(40, 2, dtype=torch.double)
    high = 3 * (torch.rand(40) < 0.3)
    return {"X": x, "y": x @ torch.tensor([1.0, -2.0]).double() + 0.3 + high + 0.5 * torch.randn(40, dtype=torch.double)}


def exact(rows: Rows) -> float:
    """log p(y) of :class:`Regression`, in closed form."""
    x = rows["X"]
    covariance = x @ x.T + 9.0 * torch.ones(len(x), len(x)).double() + 0.25 * torch.eye(len(x)).double()
    return float(torch.distributions.MultivariateNormal(torch.zeros(len(x)).double(), covariance).log_prob(rows["y"]))


def stock_steps(module: PyroModule, rows: Rows) -> list[str]:
    """Take steps of Pyro's own inference; return what its store then holds."""
    pyro.clear_param_store()
    guide = AutoNormal(poutine.block(module, hide=["high"]))
    bound = TraceEnum_ELBO(strict_enumeration_warning=False)
    inference = SVI(module, guide, pyro.optim.Adam({"lr": 0.01}), bound)
    for _ in range(3):
        inference.step(rows)
    names = sorted(pyro.get_param_store().keys())
    pyro.clear_param_store()
    return names


@pytest.mark.long
def test_compare_twice_gives_one_table(rows: Rows) -> None:
    module = Regression()
    first, second = (experiments.compare(module, rows, ["full_rank"], draws=100) for _ in range(2))
    assert [row.to_dict() | {"seconds": 0} for row in first.rows] == [row.to_dict() | {"seconds": 0} for row in second.rows]
    assert first.evidence.value == pytest.approx(exact(rows), abs=1e-6)  # the family holds the posterior


def test_any_order_of_calls_on_one_module(rows: Rows) -> None:
    module = Trained()
    done = experiments.fit(module, "exact", rows)
    names = sorted(dict(module.named_parameters()))
    values = [
        experiments.compare(module, rows, ["exact"]).evidence.value, experiments.fit(module, "categorical", rows).elbo,
        experiments.evaluate(done.model, done.guide, rows).elbo.value,
        experiments.compare(module, rows, ["exact"]).evidence.value]
    assert values == pytest.approx([done.elbo] * 4, abs=1e-3)
    assert sorted(dict(module.named_parameters())) == names


def test_sites_keep_the_modules_own_names(rows: Rows) -> None:
    assert [site.name for site in zoo.as_model(Regression()).latents(rows).sites] == ["linear.weight", "linear.bias"]


def test_a_module_that_stock_pyro_ran_first(rows: Rows) -> None:
    module = Regression()
    before = stock_steps(module, rows)
    done = experiments.fit(module, "mean_field", rows)
    assert stock_steps(module, rows) == before  # in any order
    drawn = Predictive(module, guide=done.guide, num_samples=4)({"X": rows["X"][:7]})
    assert drawn["y"].shape == (4, 7)


def test_a_trained_module_is_the_users_own(rows: Rows) -> None:
    module = Trained()
    names, stock = sorted(dict(module.named_parameters())), stock_steps(copy.deepcopy(module), rows)
    table = experiments.compare(module, rows, ["exact"])
    assert sorted(dict(module.named_parameters())) == names
    assert stock_steps(copy.deepcopy(module), rows) == stock
    assert all(p.requires_grad for p in module.parameters())
    assert float(module.noise.detach()) == pytest.approx(0.5, abs=0.2)  # trained in place, and read by the user's own name
    again = experiments.compare(module, rows, ["exact"])
    assert again.evidence.value == pytest.approx(table.evidence.value, abs=1e-3)


def test_models_may_share_a_module_or_hold_copies(rows: Rows) -> None:
    module = Trained()
    one, other, apart = zoo.as_model(module), zoo.as_model(module), zoo.as_model(copy.deepcopy(module))
    start = copy.deepcopy(module.state_dict())
    copied = copy.deepcopy(one)
    experiments.fit(one, "exact", rows)
    z = torch.zeros(1, 40, 1).double()
    assert torch.equal(one.log_joint(rows, z), other.log_joint(rows, z))  # one θ
    for untouched in (apart, copied):
        held = {name.removeprefix("module."): value for name, value in untouched.state_dict().items()}
        assert all(torch.equal(held[name], value) for name, value in start.items())
    experiments.fit(copied, "exact", rows)
    assert torch.allclose(copied.log_joint(rows, z).sum(), one.log_joint(rows, z).sum(), atol=0.01)


@pytest.mark.parametrize("make", [
    lambda: PyroModule[nn.Sequential](PyroModule[nn.Linear](1, 3)), lambda: PyroModule[nn.Linear](1, 3),
], ids=["nested", "flat"])
def test_registered_models_share_a_pyro_network(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    x, network = torch.randn(30, 3), make()
    for _ in range(2):
        model = zoo.build("vae", x, network=network, latent=1, likelihood="normal")
        before = [p.detach().clone() for p in network.parameters()]
        done = experiments.fit(model, "mean_field:encoder", x, steps=20)
        assert done.steps == 20
        assert not any(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))


class _Inner(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        loc: Tensor = self.network(x[:, None])[:, 0]
        return loc


class _Nested(zoo.Model):
    """A PyroModule that is called within the program makes statements of its networks' parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = _Inner()

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(self.inner(x), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_no_warning_of_parameters_that_are_held_fixed() -> None:
    x = torch.zeros(3)
    for model in (_Nested(), zoo.build("flow", zoo.dataset("two_moons").tensor[:50], hidden=(8,), layers=1)):
        data = x if isinstance(model, _Nested) else zoo.dataset("two_moons").tensor[:50]
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        model.train()
        z = model.sample_prior(data, 2)
        assert bool(model.log_joint(data, z).isfinite().all())  # warnings are errors here
        assert torch.allclose(model.unconstrain(data, model.constrain(data, z)), z, atol=1e-4)
