"""What a description says: of registered models, bare programs, modules, several arguments, frames and large tables."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn

import zoo
from tests.zoo.structure.graph.programs import PROGRAMS, ROWS, chain

X = torch.linspace(-1, 1, 8).double()


def line(x: Tensor, y: Tensor | None = None, *, spread: float = 1.0) -> Tensor:
    """A slope.

    And more of it.
    """
    slope = pyro.sample("slope", dist.Normal(0.0, spread))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


class Regression(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = PyroModule[nn.Linear](1, 1).double()
        self.layer.weight = PyroSample(dist.Normal(torch.zeros(1, 1).double(), 1.0).to_event(2))
        self.spread = PyroParam(torch.tensor(1.0).double(), dist.constraints.positive)

    def forward(self, x: Tensor, y: Tensor) -> None:
        mean = self.layer(x[:, None])[:, 0]
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(mean, self.spread), obs=y)


def rows_of(program: Callable[..., Any], *x: Any, **named: Any) -> dict[str, tuple[Any, ...]]:
    found = zoo.describe(program, *x, **named)
    return {s.name: (s.kind, s.support, s.shape, s.plates, s.block) for s in (*found.parameters, *found.sites)}


def test_a_registered_model_in_text() -> None:
    x = zoo.dataset("faithful").x
    assert str(zoo.describe(zoo.build("gmm", x, components=3), x)) == """\
gmm: Gaussian mixture

site     kind        support    shape      plates  block
weights  parameter   simplex    (3,)
means    parameter   real       (3, 2)
scale    parameter   Cholesky   (3, 2, 2)
z        enumerated  {0, 1, 2}  (272,)     rows    local
x        observed    real       (272, 2)   rows

unit plate: rows, 272 units; 1 local coordinate a unit
enumerated: z (3 values); 3 joint values a unit

• weights  (3,)
• means    (3, 2)
• scale    (3, 2, 2)
┌ rows × 272 ───────────────────────────────┐
│ ◌ z  Categorical ← weights                │
│ ● x  MultivariateNormal ← means, scale, z │
└───────────────────────────────────────────┘

• parameter  ◌ enumerated  ● observed  ← depends on"""


def test_a_chain_in_text() -> None:
    assert repr(zoo.describe(chain, ROWS)) == """\
chain

site                 kind      support  shape  plates  block
rho                  latent    (0, 1)   ()             shared
z_0 … z_5 (6 sites)  latent    real     ()             shared
y_0 … y_5 (6 sites)  observed  real     ()

one unit: the whole data set; 7 shared coordinates

○ rho        Beta
○ z_0 … z_5  Normal ← rho, the one before
● y_0 … y_5  Normal ← z_0 … z_5

○ latent  ● observed  ← depends on"""


@pytest.mark.parametrize("name", ["eight_schools", "linear_regression", "ppca", "linear_vae", "vae"])
def test_registered_models_are_described(name: str) -> None:
    entry = zoo.MODELS[name]
    x = zoo.dataset(
        entry.data, entry.takes, standardise=entry.standardises({}), binarise="static" if entry.takes == "images" else None).x
    model = zoo.build(name, x)
    found, latents = zoo.describe(model, x), model.latents(x)
    assert found.title == f"{name}: {entry.summary}"
    assert found.shared + found.units * found.local == latents.size * latents.units
    assert {site.name: site.shape for site in found.sites if site.kind == "latent"} == {
        site.name: tuple(site.shape) for site in latents.sites}
    assert {p.name: p.shape for p in found.parameters} == {key: tuple(value.shape) for key, value in model.theta().items()}
    learned = {parent for site in found.sites for parent in site.parents} & {p.name for p in found.parameters}
    assert learned == {p.name for p in found.parameters}, "every learned parameter is one that some site depends on"


def test_arguments_come_as_a_program_is_called() -> None:
    expected = {
        "slope": ("latent", "real", (), (), "shared"), "y": ("observed", "real", (8,), ("rows",), "")}
    assert rows_of(line, X, X) == expected
    assert rows_of(line, args=(X.numpy(), X.tolist()), kwargs={"spread": 2.0}) == expected
    assert rows_of(line, {"x": X, "y": X}) == expected
    assert rows_of(line, pd.DataFrame({"x": np.arange(8.0), "y": np.arange(8.0)})) == expected
    assert zoo.describe(line, X, X).title == "line: A slope"


def test_a_module_with_random_weights_and_learned_parameters() -> None:
    assert rows_of(Regression(), X, X) == {
        "spread": ("parameter", "positive", (), (), ""), "layer.bias": ("parameter", "real", (1,), (), ""),
        "layer.weight": ("latent", "real", (1, 1), (), "shared"), "y": ("observed", "real", (8,), ("rows",), "")}
    assert zoo.describe(Regression(), X, X).title == "Regression"


def test_a_network_named_like_a_site_is_marked() -> None:
    network = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)).double()

    def program(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(pyro.module("z", network)(z[None])[0], 1.0), obs=x)

    found = zoo.describe(program, X)
    assert [node.label for node in found.nodes] == ["z (θ)", "z", "x"]
    assert found.nodes[2].parents == ("z (θ)", "z")


def test_rows_without_observations_are_to_be_predicted() -> None:
    model = zoo.as_model(line)
    zoo.describe(model, {"x": X, "y": X})
    found = zoo.describe(model, {"x": X})
    assert {site.name: site.kind for site in found.sites} == {"slope": "latent", "y": "predicted"}
    assert found.remarks == ("no observations of y",)


def test_some_of_a_large_table_stand_for_all() -> None:
    runs = []

    def rows(x: Tensor) -> None:
        runs.append(len(x))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = pyro.deterministic("mean", z * 2, event_dim=1)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    found = zoo.describe(rows, torch.zeros(50_000, 2))
    assert {site.name: site.shape for site in found.sites} == dict.fromkeys(("z", "mean", "x"), (50_000, 2))
    assert (found.plates, found.units, max(runs)) == ({"rows": 50_000}, 50_000, 1024)


def test_improper_and_summed_out_latents_are_remarked() -> None:
    def program(x: Tensor) -> None:
        beta = pyro.sample("beta", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(beta + z, 1.0), obs=x)

    assert zoo.describe(program, X).remarks == ("summed out: z (2 values)", "improper prior: beta")
    assert rows_of(program, X)["z"] == ("summed out", "{0, 1}", (8,), ("rows",), "local")


def test_a_notebook_shows_a_table_and_an_image() -> None:
    found = zoo.describe(*PROGRAMS["nested"])
    assert found._repr_svg_() == found.svg()
    html = found._repr_html_()
    assert html.count("<tr>") == 1 + len(found.nodes)
    assert found.svg() in html


def factorless(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(0.0, 1.0))


def changing(x: Tensor) -> None:
    k = pyro.sample("k", dist.Normal(0.0, 1.0))
    m = pyro.sample("m", dist.Normal(0.0, 1.0)) if k > 0 else k
    pyro.sample("x", dist.Normal(m, 1.0).expand([8]).to_event(1), obs=x)


def infinite(x: Tensor) -> None:
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Poisson(2.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(("program", "text"), [
    (factorless, "expected a program with observed sites; got none; pass the data as obs="),
    (changing, "expected the same latent sites in every run of changing; got other ones from draw to draw"),
    (infinite, "expected discrete latents of finite support; got site 'z' of Poisson; marginalise it"),
    (3.0, "expected a Pyro program or a zoo.Model; got float; pass a function of x"),
], ids=["unobserved", "changing", "infinite", "number"])
def test_what_is_refused_elsewhere_is_refused_in_the_same_line(program: Any, text: str) -> None:
    with pytest.raises(zoo.ZooError, match=re.escape(text)) as caught:
        zoo.describe(program, X)
    assert "\n" not in str(caught.value)
