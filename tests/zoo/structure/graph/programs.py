"""Programs whose graphical models are known, for the tests of descriptions and drawings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor

import zoo

ROWS = torch.linspace(-1, 1, 6).double()
GRID = torch.linspace(-1, 1, 20).double().reshape(5, 4)


def nested(x: Tensor) -> None:
    mu, tau, sigma = (pyro.sample(name, dist.HalfNormal(1.0)) for name in ("mu", "tau", "sigma"))
    with pyro.plate("schools", 5, dim=-2):
        school = pyro.sample("school", dist.Normal(mu, tau))
        with pyro.plate("classes", 4, dim=-1):
            each = pyro.sample("class", dist.Normal(school, 1.0))
            pyro.sample("y", dist.Normal(each, sigma), obs=x)


def crossed(x: Tensor) -> None:
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    students, items = pyro.plate("students", 5, dim=-2), pyro.plate("items", 4, dim=-1)
    with students:
        ability = pyro.sample("ability", dist.Normal(0.0, spread))
    with items:
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with students, items:
        pyro.sample("answer", dist.Normal(ability - difficulty, 1.0), obs=x)


def three_ways(x: Tensor) -> None:
    a, b, c = (pyro.plate(name, size, dim=dim) for name, size, dim in (("a", 3, -3), ("b", 4, -2), ("c", 5, -1)))
    with a, b:
        ab = pyro.sample("ab", dist.Normal(0.0, 1.0))
    with b, c:
        bc = pyro.sample("bc", dist.Normal(0.0, 1.0))
    with a, c:
        ac = pyro.sample("ac", dist.Normal(0.0, 1.0))
    with a, b, c:
        pyro.sample("y", dist.Normal(ab + bc + ac, 1.0), obs=x)


def chain(x: Tensor) -> None:
    rho, z = pyro.sample("rho", dist.Beta(2.0, 2.0)), torch.zeros(())
    for t in range(len(x)):
        z = pyro.sample(f"z_{t}", dist.Normal(rho * z, 1.0))
        pyro.sample(f"y_{t}", dist.Normal(z, 1.0), obs=x[t])


def one_by_one(x: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z_{i}", dist.Normal(mu, 1.0))
        pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])


def discrete_chain(x: Tensor) -> None:
    step, z = pyro.sample("step", dist.Dirichlet(torch.ones(2, 2)).to_event(1)), torch.tensor(0)
    means = pyro.param("means", lambda: torch.tensor([-1.0, 1.0]).double())
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{t}", dist.Categorical(step[z]), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Normal(means[z], 1.0), obs=x[t])


def around(x: Tensor) -> None:
    """A sum of a plate's latents, on which later latents of rows depend."""
    with pyro.plate("first", 6):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    total = pyro.deterministic("total", z.sum())
    with pyro.plate("second", 6):
        pyro.sample("x", dist.Normal(z + total, 1.0), obs=x)


def long_names(x: Tensor) -> None:
    names = [f"the_coefficient_of_a_covariate_with_a_long_name_{letter}" for letter in "abcdefghijkl"]
    total = sum(pyro.sample(name, dist.Normal(0.0, 1.0)) for name in names)
    with pyro.plate("a_plate_of_rows_whose_name_is_as_long_as_the_names_of_the_covariates", len(x)):
        pyro.sample("the_observations_of_a_long_name", dist.Normal(total, 1.0), obs=x)


PROGRAMS: dict[str, tuple[Callable[[Any], Any], Tensor]] = {
    "nested": (nested, GRID), "crossed": (crossed, GRID), "three_ways": (three_ways, torch.zeros(3, 4, 5).double()),
    "chain": (chain, ROWS), "one_by_one": (one_by_one, ROWS), "discrete_chain": (discrete_chain, ROWS),
    "around": (around, ROWS), "long_names": (long_names, ROWS),
}


def reparametrised() -> Callable[[Any], Any]:
    """Return the program ``nested`` whose school effects are written as standard normals by a handler."""
    found: Callable[[Any], Any] = poutine.reparam(nested, config={"school": LocScaleReparam(0.0)})
    return found


@cache
def foreign() -> dict[str, tuple[Callable[[Any], Any], Any]]:
    """Return the programs of other people, which leave a file open and draw their data."""
    with warnings.catch_warnings(), zoo.seeded(0):
        warnings.simplefilter("ignore", ResourceWarning)
        from tests.foreign.programs import P
    return P
