"""What is shown of θ in programs that declare nothing: bare functions, modules, networks and layers alone."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

import experiments
import zoo
from zoo.structure.learned import learned

X = torch.linspace(-1, 1, 8)


def shown(model: zoo.Model) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    return {one.name: (one.dims, tuple(one.value.shape)) for one in model.learned().quantities}


def known(program: object, x: Tensor = X) -> zoo.Model:
    model = zoo.as_model(program)  # type: ignore[arg-type]
    model.latents(x)
    return model


NET = nn.Sequential(nn.Linear(1, 2), nn.SiLU(), nn.Linear(2, 1))


def decoded(x: Tensor) -> None:
    scale = pyro.param("noise.scale", torch.tensor(2.0), constraint=constraints.positive)
    shift = pyro.param("shift", torch.zeros(3, 2))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(shift.sum(), 1.0))
        pyro.sample("x", dist.Normal(pyro.module("net", NET)(z[..., None])[..., 0], scale), obs=x)


class Regression(PyroModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1)
        self.decoder = nn.Sequential(nn.Linear(1, 4), nn.SiLU(), nn.Linear(4, 1))
        self.likelihood = PyroModule[nn.Module]()
        self.likelihood.scale = PyroParam(torch.tensor(1.0), constraints.positive)
        self.centre = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))[..., None]
            mean = (self.line(z) + self.decoder(z))[..., 0] + self.centre.sum()
            pyro.sample("x", dist.Normal(mean, self.likelihood.scale), obs=x)


class Named(zoo.Model):
    dims = {"centre": ("column",), "x": ("column",)}

    def __init__(self) -> None:
        super().__init__()
        self.big = nn.Linear(100, 6)
        self.extra = nn.Parameter(torch.zeros(2, 3))
        self.centre = nn.Parameter(torch.zeros(2))


def test_statements_are_quantities_and_the_network_of_a_function_is_one() -> None:
    model = known(decoded)
    assert shown(model) == {"noise.scale": ((), ()), "shift": (("shift_dim_0", "shift_dim_1"), (3, 2))}
    assert float(model.learned().quantities[0].value) == pytest.approx(2.0), "constrained, as the program uses it"
    network, = model.learned().networks
    assert (network.name, network.size, network.layers) == ("net", 7, ("1 → 2", "2 → 1"))


def test_a_module_shows_layers_alone_and_counts_networks() -> None:
    model = known(Regression())
    assert shown(model) == {
        "centre": (("centre_dim_0",), (3,)), "line.weight": (("line.weight_dim_0", "line.weight_dim_1"), (1, 1)),
        "line.bias": (("line.bias_dim_0",), (1,)), "likelihood.scale": ((), ())}
    assert [(one.name, one.layers) for one in model.learned().networks] == [("decoder", ("Linear 1 → 4", "Linear 4 → 1"))]


def test_a_models_dims_name_its_parameters_and_a_large_layer_is_a_network() -> None:
    model = Named()
    assert shown(model) == {"centre": (("column",), (2,)), "extra": (("extra_dim_0", "extra_dim_1"), (2, 3))}
    assert [(one.name, one.size) for one in model.learned().networks] == [("big", 606)]
    named = learned(model, {"extra": ("row", "column")}).quantities
    assert [one.dims for one in named] == [("column",), ("row", "column")]


def test_a_statement_that_is_called_like_a_module_keeps_its_name_apart() -> None:
    class Twice(PyroModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> None:
            other = pyro.param("shift", torch.tensor(1.0))
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(self.shift, 1.0))
                pyro.sample("x", dist.Normal(z + other, 1.0), obs=x)

    found = known(Twice()).learned().quantities
    assert sorted((one.name, float(one.value)) for one in found) == [("module.shift", 0.0), ("shift", 1.0)]


def test_what_is_learned_is_readable() -> None:
    assert repr(known(decoded).learned()) == (
        "noise.scale: 2.0\nshift (shift_dim_0 3, shift_dim_1 2): [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]\n"
        "net: 7 numbers in a network: 1 → 2; 2 → 1")
    x = zoo.dataset("eight_schools").x
    assert repr(zoo.build("eight_schools", x).learned()) == "nothing is learned"


def test_the_tree_of_a_bare_program_has_its_parameters() -> None:
    tree = experiments.posterior(
        decoded, "prior", X, draws=2, groups=["posterior", "theta"], dims={"shift": ("row", "side")},
        coords={"side": ["left", "right"]})
    assert tree["theta"]["shift"].dims == ("row", "side")
    assert tree["theta"]["shift"].sel(side="left").shape == (3,)
    assert float(tree["theta"]["noise.scale"]) == pytest.approx(2.0)
    with pytest.raises(zoo.ZooError, match="expected 2 labels of dimension 'side'; got 1"):
        experiments.posterior(decoded, "prior", X, groups=["theta"], dims={"shift": ("row", "side")}, coords={"side": ["a"]})


def test_a_model_without_parameters_has_no_such_group() -> None:
    x = zoo.dataset("eight_schools").x
    tree = experiments.posterior(zoo.build("eight_schools", x), "prior", x, draws=2, groups=["posterior", "theta"])
    assert set(tree.children) == {"posterior"}
