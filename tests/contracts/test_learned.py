"""θ as a reader takes it, of every registered model that has parameters: nothing is left out, and nothing is changed."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import experiments
import zoo
from tests.contracts.cases import MOVING, begun, case
from zoo.data import Data
from zoo.model import Model

#: Models with options that give θ other parameters.
OPTIONS = {
    **{f"gmm {kind}": ("gmm", {"covariance": kind}) for kind in ("tied", "diag", "spherical")},
    **{f"vae {prior}": ("vae", {"prior": prior, "hidden": (8,)}) for prior in ("mixture", "vamp", "flow")},
    "vae normal": ("flow_prior", {"prior": "mixture"}), "vae conv": ("vae", {"network": "conv", "hidden": (8,)}),
    "flow maf": ("flow", {"kind": "maf"})}
CASES = [*MOVING, *OPTIONS]


def built(name: str) -> tuple[Model, Data]:
    if name in MOVING:
        return case(name)
    model, options = OPTIONS[name]
    x = begun(model)[1]
    return zoo.build(model, x, **options), x


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_theta_is_shown_or_in_a_network_that_is_counted(name: str) -> None:
    model, _ = built(name)
    found, theta = model.learned(), model.theta()
    shown = {one.parameter for one in found.quantities}
    counted = [parameter for network in found.networks for parameter in network.parameters]
    assert shown | set(counted) == set(theta)
    assert not shown & set(counted)
    assert len(counted) == len(set(counted))
    for network in found.networks:
        assert network.size == sum(theta[parameter].numel() for parameter in network.parameters)
        assert network.layers
    assert sum(theta[p].numel() for p in shown) + sum(n.size for n in found.networks) == sum(v.numel() for v in theta.values())


@pytest.mark.parametrize("name", CASES)
def test_every_quantity_has_declared_dimensions_that_agree_with_its_shape(name: str) -> None:
    found = built(name)[0].learned()
    names = [one.name for one in (*found.quantities, *found.networks)]
    assert len(names) == len(set(names))
    sizes: dict[str, int] = {}
    for one in found.quantities:
        assert len(one.dims) == len(set(one.dims)) == one.value.ndim
        assert not [dim for dim in one.dims if "_dim_" in dim], "a registered model names the dimensions of its parameters"
        for dim, size in zip(one.dims, one.value.shape, strict=True):
            assert sizes.setdefault(dim, size) == size


@pytest.mark.parametrize("name", CASES)
def test_what_is_shown_gives_back_what_the_program_uses(name: str) -> None:
    """θ read back from its forms gives the same densities."""
    model, x = built(name)
    latents = model.latents(x)
    with zoo.seeded(0), torch.no_grad():
        z = torch.zeros(1, latents.units, 0) if not latents.size else model.sample_prior(x, 3)
        other = zoo.build(model.label, x, **(OPTIONS[name][1] if name in OPTIONS else {}), seed=5)
        other.load_state_dict(model.state_dict())
        before, forms = model.log_joint(x, z), model.forms()
        inside = [parameter for network in model.learned().networks for parameter in network.parameters]
        for raw, value in other.named_parameters():
            if raw not in inside:
                value.add_(0.1)  # so that what is shown must have been put in its place
        for one in model.learned().quantities:
            back = [form.read for form in forms.get(one.parameter, ()) if form.name == one.name and form.read is not None]
            if back or one.parameter not in forms:
                put(other, one.parameter, back[0](one.value) if back else one.value)
        assert {p for p in forms if p in model.theta()} <= {
            p for p in forms if [f for f in forms[p] if f.read is not None]}, "one form of each parameter says all of it"
        torch.testing.assert_close(other.log_joint(x, z), before, rtol=1e-9, atol=1e-7)


def put(model: Model, name: str, value: Tensor) -> None:
    """Set a parameter to a constrained value."""
    *path, leaf = name.split(".")
    module = model.get_submodule(".".join(path))
    if leaf in getattr(module, "_pyro_params", {}):
        setattr(module, leaf, value)
    else:
        module.get_parameter(leaf).copy_(value)


@pytest.mark.parametrize("name", MOVING)
def test_theta_is_a_group_of_the_tree(name: str) -> None:
    model, x = case(name)
    guide = "exact" if zoo.MODELS[name].exact else "mean_field:encoder"
    tree = experiments.posterior(model, guide, x, draws=2, groups=["posterior", "theta"])["theta"]
    found = model.learned()
    assert set(tree.data_vars) == {one.name for one in found.quantities}
    for one in found.quantities:
        assert tree[one.name].dims == one.dims
        torch.testing.assert_close(torch.as_tensor(tree[one.name].values), one.value)
    assert len(tree.attrs["networks"].splitlines()) == len(found.networks)
    assert all(f"{network.size:,} numbers" in tree.attrs["networks"] for network in found.networks)


@pytest.mark.parametrize("name", MOVING)
def test_plain_data_holds_small_quantities_whole(name: str) -> None:
    model, _ = case(name)
    found = json.loads(json.dumps(model.learned().to_dict(), allow_nan=False))
    for one, quantity in zip(found["parameters"], model.learned().quantities, strict=True):
        assert one["dims"] == list(quantity.dims)
        if quantity.value.numel() <= 500:
            assert torch.equal(torch.tensor(one["values"], dtype=quantity.value.dtype), quantity.value)
    assert "nothing" not in repr(model.learned())
