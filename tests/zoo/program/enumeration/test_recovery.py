"""Discrete latents that were summed out are recovered: probabilities and joint draws against enumeration by hand."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import experiments
import zoo
from zoo.program.enumeration.recovery import draws, probabilities

ONE = torch.ones((), dtype=torch.double)
Y = torch.tensor([[0.3, 1.5, 0.9], [2.0, -0.5, 1.1]], dtype=torch.double)
MOVES = torch.tensor([[0.8, 0.2], [0.4, 0.6]], dtype=torch.double)
DRAWS = 20_000


def chains(y: Tensor) -> None:
    """Two chains of three steps, and a class of both together that shifts their means."""
    shift = pyro.sample("shift", dist.Normal(0 * ONE, 1.0))
    both = pyro.sample("both", dist.Bernoulli(0.3 * ONE))
    with pyro.plate("sequences", len(y)):
        state = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(3)):
            state = pyro.sample(f"state_{t}", dist.Categorical(MOVES[state]))
            pyro.sample(f"y_{t}", dist.Normal(shift + state + 0.5 * both, 1.0), obs=y[:, t])


def joint(shift: float) -> dict[tuple[int, ...], float]:
    """Return the posterior of (both, states of the first chain, states of the second) by going through all values."""
    logs = {}
    for both, *states in itertools.product(range(2), repeat=7):
        total = math.log(0.3 if both else 0.7)
        for row in range(2):
            before = 0
            for t in range(3):
                now = states[3 * row + t]
                total += math.log(MOVES[before, now]) + float(dist.Normal(shift + now + 0.5 * both, 1.0).log_prob(Y[row, t]))
                before = now
        logs[(both, *states)] = total
    top = torch.tensor(list(logs.values()), dtype=torch.double).logsumexp(0)
    return {key: math.exp(value - top) for key, value in logs.items()}


@cache
def recovered() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = zoo.as_model(chains)
    z = torch.full((DRAWS, 1, 1), 0.25, dtype=torch.double)
    assert model.latents(Y).size == 1
    with zoo.seeded(0):
        return probabilities(model.runner, Y, z[:2]), draws(model.runner, Y, z)


def test_probabilities_are_those_of_forward_and_backward() -> None:
    exact, (found, _) = joint(0.25), recovered()
    assert float(found["both"][0, 1]) == pytest.approx(sum(p for key, p in exact.items() if key[0]), abs=1e-12)
    for row, t in itertools.product(range(2), range(3)):
        truth = sum(p for key, p in exact.items() if key[1 + 3 * row + t])
        assert float(found[f"state_{t}"][1, row, 1]) == pytest.approx(truth, abs=1e-12)


def test_draws_are_of_the_joint_posterior() -> None:
    exact, (_, found) = joint(0.25), recovered()
    columns = [found["both"], *(found[f"state_{t}"][:, row] for row in range(2) for t in range(3))]
    code = sum(column.long() * 2 ** (6 - i) for i, column in enumerate(columns))
    counts = torch.bincount(torch.as_tensor(code), minlength=128)
    for i, (_, p) in enumerate(exact.items()):
        assert abs(float(counts[i]) / DRAWS - p) < 5 * math.sqrt(p * (1 - p) / DRAWS) + 1e-3 * p


def mixture(x: Tensor) -> None:
    means = pyro.sample("means", dist.Normal(torch.zeros(2).double(), 3.0).to_event(1))
    pyro.deterministic("spread", means[1] - means[0])
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.OneHotCategorical(torch.tensor([0.3, 0.7]).double()))
        pyro.deterministic("mean", kind @ means)
        pyro.sample("x", dist.Normal(kind @ means, 1.0), obs=x)


def test_the_tree_has_draws_and_probabilities() -> None:
    x = torch.tensor([-2.0, 3.0, 0.1, 2.5], dtype=torch.double)
    done = experiments.fit(mixture, "full_rank", x)
    tree = experiments.posterior(done.model, done.guide, x, draws=40, infer_discrete=True)["posterior"]
    assert tree["kind"].shape == (1, 40, 4, 2)
    assert tree["kind_probs"].dims[:3] == ("chain", "draw", "rows")
    means = torch.as_tensor(tree["means"].values[0])
    each = torch.tensor([0.3, 0.7]).double().log() + dist.Normal(means[:, None], 1.0).log_prob(x[:, None])
    torch.testing.assert_close(torch.as_tensor(tree["kind_probs"].values[0]), each.softmax(-1))
    assert (tree["kind"].values.sum(-1) == 1).all()
    plain = experiments.posterior(done.model, done.guide, x, draws=4)
    assert set(plain["posterior"].data_vars) == {"means", "spread"}
    exact = each_row(torch.as_tensor(plain["posterior"]["means"].values[0]), x)
    torch.testing.assert_close(torch.as_tensor(plain["log_likelihood"]["x"].values[0]), exact)


def each_row(means: Tensor, x: Tensor) -> Tensor:
    """Return log p(x_i | means) of the mixture, (draws, rows)."""
    logs = torch.tensor([0.3, 0.7]).double().log() + dist.Normal(means[:, None], 1.0).log_prob(x[:, None])
    return logs.logsumexp(-1)


def test_the_likelihood_of_a_chain_is_that_of_all_its_observations() -> None:
    model = zoo.as_model(chains)
    z = torch.tensor([[[0.25]], [[-1.0]]], dtype=torch.double)
    found = model.log_likelihood(Y, z)
    assert list(found) == ["y_0, y_1, y_2"]
    torch.testing.assert_close(found["y_0, y_1, y_2"], model.log_terms(Y, z)[1][:, 0])


def test_a_fault_is_told_of_all_observations_together() -> None:
    with pytest.raises(zoo.ZooError, match="non-finite log-probability at site 'x' of mixture"):
        experiments.fit(mixture, "mean_field", torch.tensor([1e200, 0.0], dtype=torch.double))
