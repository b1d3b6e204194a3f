"""Discrete latents beside continuous ones are summed out: densities against closed forms, and what can't be summed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor

import experiments
import zoo
from zoo.program.enumeration.log_einsum import einsum

DOUBLE = partial(torch.tensor, dtype=torch.double)
ONE = DOUBLE(1.0)


def draws(model: zoo.Model, x: Tensor, count: int = 6) -> tuple[Tensor, dict[str, Tensor]]:
    with zoo.seeded(3):
        z = model.sample_prior(x, count)
    return z, model.constrain(x, z)


def rows(count: int = 40) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.double)


def mixture(x: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3).double()))
    with pyro.plate("component", 3):
        means = pyro.sample("means", dist.Normal(0.0 * ONE, 3.0))
    with pyro.plate("rows", len(x)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(means[k], 1.0), obs=x)


def mixture_marginalised(x: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3).double()))
    with pyro.plate("component", 3):
        means = pyro.sample("means", dist.Normal(0.0 * ONE, 3.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, ONE)), obs=x)


@pytest.mark.parametrize("decorate", [lambda f: f, config_enumerate])
def test_a_mixture_with_priors_is_its_marginalised_twin(decorate: Callable[[Callable[..., None]], Callable[..., None]]) -> None:
    x = rows()
    model, twin = zoo.as_model(decorate(mixture)), zoo.as_model(mixture_marginalised)
    assert [site.name for site in model.latents(x).summed] == ["k"]
    z, _ = draws(model, x)
    torch.testing.assert_close(model.log_joint(x, z), twin.log_joint(x, z), rtol=0, atol=1e-8)
    assert model.runner.draws.vectorised
    z = z.requires_grad_()
    [slope] = torch.autograd.grad(model.log_joint(x, z).sum(), [z])
    [other] = torch.autograd.grad(twin.log_joint(x, z).sum(), [z])
    torch.testing.assert_close(slope, other, rtol=1e-9, atol=1e-8)


def chains(y: Tensor) -> None:
    with pyro.plate("state", 2):
        means = pyro.sample("means", dist.Normal(0.0 * ONE, 3.0))
        moves = pyro.sample("moves", dist.Dirichlet(torch.ones(2).double()))
    with pyro.plate("sequences", len(y)):
        state = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(y.shape[1])):
            state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]))
            pyro.sample(f"y_{t}", dist.Normal(means[state], 1.0), obs=y[:, t])


def forward(y: Tensor, means: Tensor, moves: Tensor) -> Tensor:
    """Return log p(y | means, moves) of each sequence by the forward algorithm, from state 0."""
    ahead = moves[0].log() + dist.Normal(means, 1.0).log_prob(y[:, :1])
    for t in range(1, y.shape[1]):
        ahead = torch.logsumexp(ahead[:, :, None] + moves.log(), 1) + dist.Normal(means, 1.0).log_prob(y[:, t:t + 1])
    return ahead.logsumexp(1)


def test_chains_are_the_forward_algorithm() -> None:
    y = rows(90).reshape(3, 30)
    model = zoo.as_model(chains)
    z, values = draws(model, y)
    _, likelihood = model.log_terms(y, z)
    expected = torch.stack([forward(y, a, b).sum() for a, b in zip(values["means"], values["moves"], strict=True)])
    torch.testing.assert_close(likelihood[:, 0], expected, rtol=0, atol=1e-9)


def fixed_chain(y: Tensor) -> None:
    moves, means = DOUBLE([[0.9, 0.1], [0.2, 0.8]]), DOUBLE([3.0, 10.0])
    state = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"state_{t}", dist.Categorical(moves[state]))
        pyro.sample(f"y_{t}", dist.Normal(means[state], 1.0), obs=y[t])


def test_a_chain_of_discrete_latents_alone_has_exact_evidence() -> None:
    """2^200 joint values are no table: they are summed along the chain, and nothing is left to infer."""
    y = 6 + 4 * rows(200)
    found = experiments.evidence(fixed_chain, y)
    moves, means = DOUBLE([[0.9, 0.1], [0.2, 0.8]]), DOUBLE([3.0, 10.0])
    assert found.kind == "exact"
    assert found.value == pytest.approx(float(forward(y[None], means, moves)), abs=1e-9)
    assert zoo.as_model(fixed_chain).latents(y).size == 0


def zero_inflated(x: Tensor) -> None:
    gate = pyro.sample("gate", dist.Beta(ONE, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2 * ONE, 1.0))
    with pyro.plate("rows", len(x)):
        empty = pyro.sample("empty", dist.Bernoulli(gate))
        pyro.sample("x", dist.Poisson(torch.where(empty > 0, 1e-30 * ONE, rate)), obs=x)


def test_zero_inflated_counts() -> None:
    x = torch.tensor([0.0, 3.0, 0.0, 1.0, 2.0, 0.0]).double()
    model = zoo.as_model(zero_inflated)
    z, values = draws(model, x)
    _, likelihood = model.log_terms(x, z)
    expected = [float(dist.ZeroInflatedPoisson(r, gate=g).log_prob(x).sum()) for r, g in zip(values["rate"], values["gate"],
                                                                                           strict=True)]
    torch.testing.assert_close(likelihood[:, 0], DOUBLE(expected), rtol=0, atol=1e-8)


def topics(x: Tensor) -> None:
    with pyro.plate("topics", 2):
        words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(6).double()))
    with pyro.plate("documents", len(x), dim=-2):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2).double()))
        with pyro.plate("words", x.shape[1], dim=-1):
            topic = pyro.sample("topic", dist.Categorical(shares))
            pyro.sample("word", dist.Categorical(words[topic]), obs=x)


def test_topics_of_words_in_nested_plates() -> None:
    x = torch.randint(6, (5, 8), generator=torch.Generator().manual_seed(0))
    model = zoo.as_model(topics)
    z, values = draws(model, x)
    _, likelihood = model.log_terms(x, z)
    words = torch.einsum("sdk,skv->sdv", values["shares"].squeeze(2), values["topic_words"])
    expected = words.log().gather(2, x.expand(len(z), -1, -1)).sum((1, 2))
    torch.testing.assert_close(likelihood[:, 0].double(), expected.double(), rtol=1e-5, atol=0)  # draws are in float32


def of_rows(x: Tensor) -> None:
    """A class and a continuous latent of each row, the one given the other."""
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7]).double()))
        z = pyro.sample("z", dist.Normal(torch.tensor([-2.0, 1.0]).double()[kind], 0.5))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_rows_keep_their_own_terms_and_a_latent_given_a_class_its_one_value() -> None:
    x = rows(7)
    model = zoo.as_model(of_rows)
    assert (model.latents(x).unit, model.latents(x).units, model.latents(x).size) == ("rows", 7, 1)
    z, _ = draws(model, x)
    prior, likelihood = model.log_terms(x, z)
    value = z[..., 0]
    each = [math.log(p) + dist.Normal(m, 0.5).log_prob(value) for p, m in ((0.3, -2.0), (0.7, 1.0))]
    torch.testing.assert_close(prior, torch.stack(each).logsumexp(0))
    torch.testing.assert_close(likelihood, dist.Normal(value, 1.0).log_prob(x))
    torch.testing.assert_close(model.log_likelihood(x, z)["x"], likelihood)


def test_the_evidence_of_rows_with_a_class_is_that_of_the_mixture() -> None:
    x = rows(7)
    truth = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7]).double()),
        dist.Normal(torch.tensor([-2.0, 1.0]).double(), math.sqrt(1.25) * torch.ones(2).double())).log_prob(x).sum()
    table = experiments.compare(of_rows, x, ["full_rank"])
    assert table.evidence.lower - 1e-6 <= float(truth) <= (table.evidence.upper or math.inf) + 1e-6


def masked(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(ONE, 1.0))
    with pyro.plate("rows", len(x)), poutine.mask(mask=torch.tensor([True, True, False])):
        k = pyro.sample("k", dist.Categorical(torch.stack([p, 1 - p])))
        pyro.sample("x", dist.Normal(3.0 * k, 1.0), obs=x)


def test_a_masked_discrete_latent_does_not_count() -> None:
    x = rows(3)
    model = zoo.as_model(masked)
    z, values = draws(model, x)
    p = values["p"][:, None]
    each = torch.stack([p.log() + dist.Normal(0.0, 1.0).log_prob(x), (-p).log1p() + dist.Normal(3.0, 1.0).log_prob(x)])
    torch.testing.assert_close(model.log_terms(x, z)[1][:, 0], each.logsumexp(0)[:, :2].sum(1))


def test_a_shared_discrete_latent_is_summed_over_all_rows_together() -> None:
    def changepoint(x: Tensor) -> None:
        early, late = (pyro.sample(name, dist.Exponential(ONE)) for name in ("early", "late"))
        at = pyro.sample("at", dist.Categorical(logits=torch.zeros(len(x)).double()))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Poisson(torch.where(torch.arange(len(x)) < at, early, late)), obs=x)

    x = torch.tensor([4.0, 5.0, 1.0, 0.0, 1.0]).double()
    model = zoo.as_model(changepoint)
    z, values = draws(model, x)
    each = []
    for at, draw in itertools.product(range(5), range(len(z))):
        rate = torch.where(torch.arange(5) < at, values["early"][draw], values["late"][draw])
        each.append(dist.Poisson(rate).log_prob(x).sum() - math.log(5))
    torch.testing.assert_close(model.log_terms(x, z)[1][:, 0], torch.stack(each).reshape(5, -1).logsumexp(0))


def counted(x: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(ONE, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("n", dist.Poisson(rate)), 1.0), obs=x)


def branching(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(ONE, 1.0))
    mean = 1.0 if pyro.sample("k", dist.Bernoulli(p)) > 0 else -1.0
    pyro.sample("x", dist.Normal(mean * ONE, 1.0).expand([len(x)]).to_event(1), obs=x)


def joined(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(ONE, 1.0))
    k = pyro.sample("k", dist.Bernoulli(p).expand([len(x)]).to_event(1))
    pyro.sample("x", dist.Normal(k, 1.0).to_event(1), obs=x)


def unplated(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(ONE, 1.0))
    pyro.sample("x", dist.Normal(pyro.sample("k", dist.Bernoulli(p).expand([len(x)])), 1.0), obs=x)


def scaled(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(ONE, 1.0))
    with pyro.plate("rows", len(x)), poutine.scale(scale=0.5):
        pyro.sample("x", dist.Normal(pyro.sample("k", dist.Bernoulli(p)), 1.0), obs=x)


@pytest.mark.parametrize(("program", "message"), [
    (counted, "got site 'n' of Poisson, which has no upper bound; bound it"),
    (branching, r"runs at all values of its discrete latents \(k\) at once"),
    (joined, "got site 'k' of Independent: .*put its elements in a plate"),
    (unplated, "got site 'k' of batch shape .* without one along dimension -1; add pyro.plate"),
    (scaled, "expected no poutine.scale on sites that depend on discrete latents"),
])
def test_what_cannot_be_summed_is_refused_in_a_line(program: Callable[[Tensor], None], message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message) as caught:
        experiments.compare(program, rows(3), ["mean_field"])
    assert "\n" not in str(caught.value)


def test_sums_of_products_neither_underflow_nor_are_lost() -> None:
    """One factor favours the first value by 1,000 nats, the other one the second by 2,000."""
    a, b = torch.tensor([0.0, -1000.0]).double(), torch.tensor([[-2000.0], [0.0]]).double()
    assert float(einsum("i,ij->j", a, b)) == pytest.approx(-1000.0)
    impossible = torch.full((2,), -math.inf).double().requires_grad_()
    total = einsum("i,i->", impossible, a)
    [slope] = torch.autograd.grad(total, [impossible])
    assert float(total.detach()) == -math.inf
    assert bool((slope == 0).all())


@pytest.mark.parametrize("equation", ["ij,jk->ik", "ij,j->i", "ib,jb->b", "abi,ibj->abj"])
def test_products_by_matrices_are_the_same(equation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {name: 2 + i for i, name in enumerate("ijkab")}
    operands = [
        torch.randn([sizes[name] for name in dims], generator=torch.Generator().manual_seed(1), dtype=torch.double)
        for dims in equation.split("->")[0].split(",")]
    plain = einsum(equation, *operands)
    monkeypatch.setattr("zoo.program.enumeration.log_einsum.LARGEST", 1)
    torch.testing.assert_close(einsum(equation, *operands), plain)
    torch.testing.assert_close(plain, torch.einsum(equation, *(o.exp() for o in operands)).log())
