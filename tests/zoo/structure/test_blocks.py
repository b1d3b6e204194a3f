"""Shared and local latents: where they lie in the joint vector, and the density by block, whose sum is the whole."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

import zoo
from zoo.structure.blocks import blocks, log_block_terms

ONE = torch.ones((), dtype=torch.double)


def hierarchy(x: Tensor) -> None:
    """A shared level, a local latent of two numbers for each row, one of each row's columns, and a factor outside."""
    level = pyro.sample("level", dist.Normal(0 * ONE, 3.0))
    pyro.factor("prior", -level.square())
    columns = pyro.plate("columns", x.shape[1], dim=-1)
    with columns:
        weights = pyro.sample("weights", dist.Gamma(2 * ONE, 1.0))
    with pyro.plate("rows", len(x), dim=-2), columns:
        each = pyro.sample("each", dist.Normal(level, 1.0))
        pyro.sample("x", dist.Normal(each * weights, 1.0), obs=x)


def test_blocks_split_and_join_the_joint_vector() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    model = zoo.as_model(hierarchy)
    found = blocks(model, x)
    assert found is not None
    assert (found.plate, found.rows, len(found.shared), tuple(found.local.shape)) == ("rows", 5, 4, (5, 3))
    z = model.sample_prior(x, 4)
    shared, local = found.split(z)
    assert torch.equal(found.join(shared, local), z)
    values = model.constrain(x, z)
    assert torch.equal(local, values["each"])
    assert torch.equal(shared[:, 0], values["level"])


def test_terms_by_block_are_those_of_each_row() -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    model = zoo.as_model(hierarchy)
    z = model.sample_prior(x, 4)
    shared, local = log_block_terms(model, x, z)
    torch.testing.assert_close(shared + local.sum(1), model.log_joint(x, z)[:, 0])
    values = model.constrain(x, z)
    each = dist.Normal(values["level"][:, None, None], 1.0).log_prob(values["each"])
    mean = values["each"] * values["weights"].reshape(4, 1, 3)
    torch.testing.assert_close(local, (each + dist.Normal(mean, 1.0).log_prob(x)).sum(2))


def test_the_unit_plate_is_the_outermost_whatever_dimension_pyro_gives_it() -> None:
    def documents(x: Tensor) -> None:
        level = pyro.sample("level", dist.Normal(0 * ONE, 3.0))
        with pyro.plate("documents", x.shape[1]):  # Pyro counts plates from the right
            each = pyro.sample("each", dist.Normal(level, 1.0))
            with pyro.plate("words", len(x)):
                pyro.sample("x", dist.Normal(each, 1.0), obs=x)

    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    found = blocks(zoo.as_model(documents), x)
    assert found is not None
    assert (found.plate, found.rows, len(found.shared), tuple(found.local.shape)) == ("documents", 3, 1, (3, 1))


def test_discrete_latents_of_rows_are_summed_in_their_rows() -> None:
    def mixture(x: Tensor) -> None:
        means = pyro.sample("means", dist.Normal(torch.zeros(2).double(), 3.0).to_event(1))
        with pyro.plate("rows", len(x)):
            kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.3, 0.7]).double()))
            pyro.sample("x", dist.Normal(means[kind], 1.0), obs=x)

    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.double)
    model = zoo.as_model(mixture)
    z = model.sample_prior(x, 3)
    _, local = log_block_terms(model, x, z)
    logs = torch.tensor([0.3, 0.7]).double().log() + dist.Normal(z, 1.0).log_prob(x[:, None])
    torch.testing.assert_close(local, logs.logsumexp(-1))


@pytest.mark.parametrize("name", ["gmm", "ppca"])
def test_rows_that_own_all_their_latents_have_no_blocks(name: str) -> None:
    x = zoo.dataset("wine", standardise=True).x
    model = zoo.build(name, x)
    assert blocks(model, x) is None
    with pytest.raises(zoo.ZooError, match="expected a plate that holds every observed site"):
        log_block_terms(model, x, model.sample_prior(x, 1))
