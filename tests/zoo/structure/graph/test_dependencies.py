"""What each site depends on is found whatever the program does with tensors, and agrees with Pyro's own inspection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.inspect import get_dependencies
from torch import Tensor, nn

import zoo
from tests.zoo.structure.graph.programs import GRID, ROWS, foreign, nested, reparametrised
from zoo.structure.graph.dependencies import Sources

TABLE = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double()
NETWORK = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def parents(program: Callable[[Any], Any], x: Any = ROWS) -> dict[str, set[str]]:
    return {site.name: set(site.parents) for site in zoo.describe(program, x).sites}


def observed(x: Tensor, *location: Tensor | float) -> None:
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(*location), obs=x)


def normals(*names: str) -> list[Tensor]:
    return [pyro.sample(name, dist.Normal(0.0, 1.0)) for name in names]


def in_place(x: Tensor) -> None:
    a, b, _ = normals("a", "b", "c")
    path = torch.zeros(len(x)).double()
    path[0] = a
    for t in range(1, len(x)):
        path[t] = path[t - 1] / 2
    path += b
    observed(x, path, 1.0)


def by_index(x: Tensor) -> None:
    z = pyro.sample("z", dist.Categorical(torch.ones(2)), infer={"enumerate": "parallel"})
    a, b = normals("a", "b")
    observed(x, torch.stack([a, b], -1)[..., z], 1.0)


def by_lone_index(x: Tensor) -> None:
    """A chain whose steps index the same table: no step depends on any but the last one."""
    z = torch.tensor(0)
    for t in pyro.markov(range(4)):
        z = pyro.sample(f"z_{t}", dist.Categorical(TABLE[z]))
        pyro.sample(f"y_{t}", dist.Normal(z.double(), 1.0), obs=x[t])


def network(x: Tensor) -> None:
    pyro.module("net", NETWORK)
    spread = pyro.param("spread", torch.ones(()).double(), constraint=dist.constraints.positive)
    [a] = normals("a")
    observed(x, NETWORK(a[None])[0], spread)


def scaled_and_masked(x: Tensor) -> None:
    share, m, _ = pyro.sample("share", dist.Beta(1.0, 1.0)), *normals("m", "unused")
    with poutine.scale(scale=share):
        observed(x, m, 1.0)


def moving_support(x: Tensor) -> None:
    high = pyro.sample("high", dist.HalfNormal(1.0))
    low = pyro.sample("low", dist.Uniform(torch.zeros(()).double(), high))
    pyro.factor("tilt", low.log())
    observed(x, low, 1.0)


def looked_at(x: Tensor) -> None:
    a, b, _ = normals("a", "b", "c")
    observed(x, b, 1.0 if a.item() > 0 else 2.0)


def rejecting(x: Tensor) -> None:
    """The sampler of an angle looks at numbers, and nothing later depends on what it saw."""
    turn = pyro.sample("turn", dist.VonMises(0.0, 2.0))
    pyro.sample("other", dist.VonMises(turn, 2.0))
    observed(x, *normals("m"), 1.0)


def mapped(x: Tensor) -> None:
    a, _ = pyro.sample("a", dist.Normal(torch.zeros(3), 1.0).to_event(1)), normals("b")
    observed(x, torch.func.vmap(lambda value: 2 * value + 1)(a).sum(), 1.0)


KNOWN: Mapping[Callable[[Any], Any], dict[str, set[str]]] = {
    in_place: {"a": set(), "b": set(), "c": set(), "x": {"a", "b"}},
    by_index: {"z": set(), "a": set(), "b": set(), "x": {"a", "b", "z"}},
    by_lone_index: {**{f"z_{t}": {f"z_{t - 1}"} if t else set() for t in range(4)}, **{f"y_{t}": {f"z_{t}"} for t in range(4)}},
    network: {"a": set(), "x": {"a", "spread", *(f"net$$${n}" for n in ("0.weight", "0.bias", "2.weight", "2.bias"))}},
    scaled_and_masked: {"share": set(), "m": set(), "unused": set(), "x": {"share", "m"}},
    moving_support: {"high": set(), "low": {"high"}, "tilt": {"low"}, "x": {"low"}},
    looked_at: {"a": set(), "b": set(), "c": set(), "x": {"a", "b"}},
    rejecting: {"turn": set(), "other": {"turn"}, "m": set(), "x": {"m"}},
    mapped: {"a": set(), "b": set(), "x": {"a"}},
}


@pytest.mark.parametrize("program", KNOWN, ids=lambda program: program.__name__)
def test_what_sites_depend_on_is_found(program: Callable[[Any], Any]) -> None:
    assert parents(program) == KNOWN[program]


def test_a_support_that_moves_has_no_bounds() -> None:
    found = {site.name: site.support for site in zoo.describe(moving_support, ROWS).sites}
    assert found == {"high": "positive", "low": "interval", "tilt": "", "x": "real"}


def test_a_site_that_is_reparametrised_is_computed() -> None:
    found = {site.name: site for site in zoo.describe(reparametrised(), GRID).sites}
    assert (found["school"].kind, found["school_decentered"].kind) == ("computed", "latent")
    assert set(found["school"].parents) == {"mu", "tau", "school_decentered"}


def test_a_number_that_python_reads_is_said() -> None:
    assert zoo.describe(looked_at, ROWS).remarks == (
        "Python reads the numbers of a: all later sites count as dependent on them",)
    assert zoo.describe(rejecting, ROWS).remarks == ()


@pytest.mark.parametrize("name", [
    "eight_schools_nc", "radon_nc", "gmm_discrete", "lda_enum", "stoch_vol_vec", "cjs_marginal", "missing_nan", "contrib_gp",
    "pyromodule_regression"])
def test_pyro_finds_the_same(name: str) -> None:
    """Pyro follows tensors of its own type, and leaves computed sites out."""
    program, x = foreign()[name]
    args, kwargs = zoo.as_model(program).given(x)
    theirs = get_dependencies(program, args, kwargs)["prior_dependencies"]
    ours = zoo.describe(program, x)
    sites = {site.name: site for site in ours.sites}

    def drawn(site: str) -> set[str]:
        return {name for parent in sites[site].parents for name in (
            drawn(parent) if sites[parent].kind == "computed" else {parent})}

    assert {name: drawn(name) for name in theirs} == {name: set(found) - {name} for name, found in theirs.items()}


def test_views_and_changes_in_place_are_followed_by_memory() -> None:
    a, b = torch.zeros(4), torch.ones(4)
    with Sources({"a": a, "b": b}) as sources:
        c = torch.zeros(4)
        view = c[1:3]
        view.copy_(b[:2])
        d = torch.zeros(4)
        assert sources.of(c) == {"b"}
        assert sources.of((c, {"of": [a[None]]})) == {"a", "b"}
        assert sources.of(d, None, "word") == frozenset()
        assert float(a.sum()) == 0.0
    assert sources.read == {"a"}


def test_a_description_leaves_generators_parameters_and_modes_as_they_were() -> None:
    pyro.clear_param_store()
    model = zoo.as_model(network)
    before = torch.get_rng_state()
    zoo.describe(model, ROWS)
    assert bool((torch.get_rng_state() == before).all())
    assert list(pyro.get_param_store().keys()) == []
    assert model.training


def test_the_sites_are_those_of_the_layout() -> None:
    latents = zoo.as_model(nested).latents(GRID)
    found = zoo.describe(nested, GRID)
    assert [site.name for site in found.sites if site.kind == "latent"] == [site.name for site in latents.sites]
    assert found.shared + found.units * found.local == latents.size
