"""Angles are integrated over one turn, wherever they are centred and however they are wrapped."""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoGuide, AutoMultivariateNormal, AutoNormal
from scipy import special
from torch import Tensor

import experiments
import zoo
from zoo.program.sites.angles import Turn, bijection, once

Y = torch.tensor([0.1, 0.3, -0.2], dtype=torch.double)


def angle(centre: float, wrap: Callable[[dist.Distribution], dist.Distribution] = lambda fn: fn) -> Callable[[Tensor], None]:
    def program(x: Tensor) -> None:
        m = pyro.sample("m", wrap(dist.VonMises(torch.tensor(centre, dtype=x.dtype), 1.0)))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.VonMises(m.reshape(()), 2.0), obs=x)

    return program


def log_evidence(y: Tensor, centre: float) -> float:
    """Return log p(y) of torch's own density, by the trapezoidal rule over one turn."""
    m = torch.linspace(-math.pi, math.pi, 2001, dtype=torch.double)[:-1]
    log_f = dist.VonMises(torch.tensor(centre, dtype=torch.double), 1.0).log_prob(m)
    for v in y:
        log_f = log_f + dist.VonMises(m, 2.0).log_prob(v)
    return float(log_f.logsumexp(0)) + math.log(2 * math.pi / 2000)


@pytest.mark.parametrize("centre", [0.0, 1.0, math.pi, -3.0, 7.0])
def test_the_evidence_is_that_of_one_turn(centre: float) -> None:
    y = Y + centre
    found = experiments.evidence(angle(centre), y)
    assert found.kind == "quadrature"
    assert found.lower <= log_evidence(y, centre) <= found.upper + 1e-8
    assert found.upper - found.lower < 1e-5


@pytest.mark.parametrize("wrap", [
    lambda fn: fn.expand([1]).to_event(1), lambda fn: fn.mask(True),
    lambda fn: dist.torch_distribution.ExpandedDistribution(fn, [1]).to_event(1),
    lambda fn: dist.TransformedDistribution(fn, [dist.transforms.AffineTransform(0.0, 1.0)]),
    lambda fn: dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(2).double()), dist.VonMises(fn.loc.expand(2), fn.concentration)),
])
def test_an_angle_that_is_wrapped_is_one(wrap: Callable[[dist.Distribution], dist.Distribution]) -> None:
    found = experiments.evidence(angle(0.4, wrap), Y)
    assert found.lower <= log_evidence(Y, 0.4) <= found.upper + 1e-8
    assert found.upper - found.lower < 1e-5


def test_two_angles_on_a_torus() -> None:
    """With a likelihood that says nothing, the evidence is the integral of the prior: one."""
    def torus(x: Tensor) -> None:
        one = torch.ones(()).double()
        pyro.sample("m", dist.SineBivariateVonMises(0.3 * one, 3.0 * one, 1.5 * one, 2.0 * one, correlation=0.5 * one))
        pyro.sample("y", dist.Normal(0.0, 1.0), obs=x)

    x = torch.zeros((), dtype=torch.double)
    assert experiments.evidence(torus, x).value == pytest.approx(-0.5 * math.log(2 * math.pi), abs=1e-5)


def test_a_guide_of_a_posterior_opposite_nought() -> None:
    """The turn begins opposite the prior's centre, so a posterior about π is not cut apart."""
    y = (Y + math.pi).float()
    found = experiments.fit(angle(math.pi), "full_rank", y)
    done = experiments.evaluate(found.model, found.guide, y)
    assert done.evidence.value == pytest.approx(log_evidence(y, math.pi), abs=1e-4)
    assert done.kl_gap.upper < 0.01


def test_values_lie_in_one_turn() -> None:
    model = zoo.as_model(angle(3.0))
    z = 1.5 * torch.randn(500, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    values = model.constrain(Y, z)["m"]
    assert float(values.abs().max()) <= math.pi
    assert torch.allclose(model.unconstrain(Y, {"m": values}), z, atol=1e-6)
    turns = model.unconstrain(Y, {"m": values + 4 * math.pi})
    assert torch.allclose(turns, z, atol=1e-6)


def test_a_walk_of_angles_follows_its_own_centre() -> None:
    def walk(x: Tensor) -> None:
        m = torch.zeros((), dtype=torch.double)
        for t in range(2):
            m = pyro.sample(f"m{t}", dist.VonMises(m, 4.0))
            pyro.sample(f"x{t}", dist.VonMises(m, 2.0), obs=x[t])

    x = torch.tensor([2.8, -2.9], dtype=torch.double)
    grid = np.linspace(-np.pi, np.pi, 801)[:-1]
    a, b = np.meshgrid(grid, grid, indexing="ij")
    log_f = 4 * np.cos(a) + 4 * np.cos(b - a) + 2 * np.cos(2.8 - a) + 2 * np.cos(-2.9 - b)
    log_f -= 2 * math.log(2 * np.pi * special.i0(4)) + 2 * math.log(2 * np.pi * special.i0(2))
    expected = special.logsumexp(log_f) + 2 * math.log(2 * np.pi / 800)
    found = experiments.evidence(walk, x)
    assert found.lower <= float(expected) <= found.upper
    assert found.upper - found.lower < 1e-3


def test_the_map_is_its_own_jacobian() -> None:
    turn, z = Turn(torch.tensor(2.0).double()), torch.linspace(-6, 6, 50).double().requires_grad_()
    [slope] = torch.autograd.grad(turn(z).sum(), [z], create_graph=True)
    assert torch.allclose(slope.log(), turn.log_abs_det_jacobian(z, turn(z)))
    assert torch.allclose(once(torch.tensor(-7.0)), torch.tensor(-7.0 + 2 * math.pi))


def test_other_supports_are_as_they_were() -> None:
    assert isinstance(bijection(dist.Gamma(1.0, 1.0)), type(torch.distributions.biject_to(dist.Gamma(1.0, 1.0).support)))


@pytest.mark.parametrize("kind", [AutoNormal, pytest.param(AutoMultivariateNormal, marks=pytest.mark.long)])
def test_an_autoguide_draws_in_one_turn(kind: type[AutoGuide]) -> None:
    model = zoo.as_model(angle(2.0))
    y = (Y + 2.0).float()
    fitted = experiments.fit(model, kind, y, steps=300, seed=0)
    done = experiments.evaluate(fitted.model, fitted.guide, y)
    assert done.evidence.value == pytest.approx(log_evidence(y.double(), 2.0), abs=1e-4)
    assert 0 <= done.kl_gap.upper < 0.1
    tree = experiments.posterior(fitted.model, fitted.guide, y, draws=100)
    assert float(np.abs(tree["posterior"]["m"].values).max()) <= math.pi


@pytest.mark.parametrize(("loc", "scale"), [(0.3, 0.5), (3.1, 1.0), (-40.0, 2.5), (2.0, 12.0)])
def test_a_normal_on_the_line_has_the_density_of_its_direction(loc: float, scale: float) -> None:
    """A guide of one's own draws an angle from a normal. Its ELBO is by quadrature over one turn; on the line it has no end."""
    def program(y: Tensor) -> None:
        one = torch.ones((), dtype=torch.double)
        m = pyro.sample("m", dist.VonMises(0 * one, 0.1 * one))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.VonMises(m, 0.3 * one), obs=y)

    def guide(y: Tensor) -> None:
        pyro.sample("m", dist.Normal(torch.tensor(loc).double(), scale))

    model = zoo.as_model(program)
    found = experiments.evaluate(model, guide, Y).elbo
    m = torch.arange(-math.pi, math.pi, 1e-4, dtype=torch.double)
    turns = 2 * math.pi * torch.arange(-30, 31)[:, None]
    nearest = m + 2 * math.pi * round(loc / (2 * math.pi))
    log_q = dist.Normal(torch.tensor(loc).double(), scale).log_prob(nearest + turns).logsumexp(0)
    log_p = dist.VonMises(torch.zeros(()).double(), 0.1).log_prob(m) + dist.VonMises(m[:, None], 0.3).log_prob(Y).sum(1)
    assert float(log_q.exp().sum()) * 1e-4 == pytest.approx(1, abs=1e-3)
    truth = float((log_q.exp() * (log_p - log_q)).sum()) * 1e-4
    assert abs(found.value - truth) < 4 * found.se + 1e-3


def test_an_autoguide_that_was_made_on_the_line_is_refused() -> None:
    model = zoo.as_model(angle(2.0))
    guide = AutoNormal(model)
    with pyro.get_param_store().scope():
        guide(Y.float())
    with pytest.raises(zoo.ZooError, match="expected latents of fixed support for 'AutoNormal'; got 'm'"):
        experiments.fit(model, guide, Y.float())
