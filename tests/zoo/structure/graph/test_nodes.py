"""Statements that repeat are one node, and no others are."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import zoo
from tests.zoo.structure.graph.programs import ROWS, chain, discrete_chain, one_by_one
from zoo.structure.graph.nodes import DescribedSite, fold, shortened


def two_layers(x: Tensor) -> None:
    """Sites with numbers in their names that are statements of their own."""
    w1 = pyro.sample("w1", dist.Normal(0.0, 1.0))
    w2 = pyro.sample("w2", dist.Normal(w1, 1.0))
    w3 = pyro.sample("w3", dist.Normal(w2, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(w3, 1.0), obs=x)


def growing(x: Tensor) -> None:
    """A loop whose sites differ in shape, and one that skips a step."""
    total = torch.zeros(())
    for t in range(4):
        total = total + pyro.sample(f"w_{t}", dist.Normal(0.0, 1.0).expand([1 + t // 3]).to_event(1)).sum()
    for t in range(4):
        total = total + pyro.sample(f"v_{t}", dist.Normal(total if t == 3 else 0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(total, 1.0), obs=x)


def nodes(program: object, x: Tensor = ROWS) -> dict[str, tuple[tuple[str, ...], str]]:
    return {node.label: (node.parents, node.loop) for node in zoo.describe(program, x).nodes}


def test_steps_of_a_chain_are_one_node() -> None:
    assert nodes(chain) == {
        "rho": ((), ""), "z_0 … z_5": (("rho",), "the one before"), "y_0 … y_5": (("z_0 … z_5",), "")}
    assert nodes(discrete_chain) == {
        "means": ((), ""), "step": ((), ""), "z_0 … z_5": (("step",), "the one before"),
        "y_0 … y_5": (("means", "z_0 … z_5"), "")}


def test_rows_of_a_sequential_plate_are_one_node_in_it() -> None:
    assert nodes(one_by_one) == {"mu": ((), ""), "z_0 … z_5": (("mu",), ""), "x_0 … x_5": (("z_0 … z_5",), "")}
    described = zoo.describe(one_by_one, ROWS)
    assert described.plates == {"data": 6}
    assert described.unit is None


def test_statements_of_their_own_stay_apart() -> None:
    assert list(nodes(two_layers)) == ["w1", "w2", "w3", "x"]


def test_sites_of_other_shapes_stay_apart() -> None:
    assert nodes(growing) == {
        "w_0 … w_2": ((), ""), "w_3": ((), ""), "v_0 … v_3": (("w_0 … w_2", "w_3"), "earlier ones"),
        "x": (("w_0 … w_2", "w_3", "v_0 … v_3"), "")}


def test_a_networks_parameters_are_one_node() -> None:
    sites = [
        DescribedSite("net.0.weight", "parameter", support="real", shape=(3, 2)),
        DescribedSite("net.0.bias", "parameter", support="real", shape=(3,)),
        DescribedSite("scale", "parameter", support="positive", shape=()),
        DescribedSite("x", "observed", "Normal", "real", (4,), parents=("net.0.bias", "net.0.weight"))]
    found = fold(sites)
    assert [(node.label, node.support, node.shape, node.parents) for node in found] == [
        ("net", "real", "9 numbers", ()), ("scale", "positive", "()", ()), ("x", "real", "(4,)", ("net",))]


def test_long_names_keep_their_ends() -> None:
    assert shortened("alpha", 5) == "alpha"
    assert [len(shortened("a" * 40, length)) for length in (5, 12, 39, 40)] == [5, 12, 39, 40]
    assert shortened("coefficient_a", 10) == "coeffi…t_a"
