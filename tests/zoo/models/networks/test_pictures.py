"""Pictures with channels, last or first, and networks of a user's own that take them or answer with pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import experiments
import guides
import zoo
from experiments.log_evidence.log_weights import log_weights
from experiments.reporting.pictures import prior_samples, reconstructions, traversal, worst_units
from zoo.errors import ZooError
from zoo.nn.networks import conv_decoder, conv_encoder

SHAPES = [(8, 12, 3), (3, 8, 12), (8, 8)]


def pictures(shape: tuple[int, ...], rows: int = 24) -> Tensor:
    """Black and white numbers, brighter to one side in half of the rows."""
    generator = torch.Generator().manual_seed(0)
    tilt = torch.linspace(0.1, 0.9, shape[-2] if len(shape) == 3 else shape[-1], dtype=torch.double)
    tilt = tilt[:, None] if len(shape) == 3 else tilt
    rate = torch.where(torch.arange(rows)[:, *[None] * len(shape)] % 2 == 0, tilt, tilt.flip(0)).expand(rows, *shape)
    return torch.bernoulli(rate, generator=generator)


class Encoder(nn.Module):
    """As in Pyro's tutorials: two heads, of which the second's exponential is the scale."""

    def __init__(self, columns: int, take: Callable[[Tensor], Tensor] = lambda x: x.flatten(1), sign: float = 1.0):
        super().__init__()
        self.take, self.sign = take, sign
        self.hidden, self.loc, self.log_scale = nn.Linear(columns, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(self.take(x)).tanh()
        return self.loc(hidden), self.sign * self.log_scale(hidden).exp()


def convolutions(channels: int, height: int, width: int) -> nn.Module:
    """A user's decoder to pictures (units, channels, height, width)."""
    return nn.Sequential(
        nn.Linear(2, 4 * height * width // 4), nn.Unflatten(1, (4, height // 2, width // 2)),
        nn.ConvTranspose2d(4, channels, 4, 2, 1))


# -- layouts -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_keep_numbers_in_their_places(shape: tuple[int, ...]) -> None:
    """An encoder reads channels as channels; a decoder's outputs of one number lie side by side, in the layout of x."""
    last, channels = shape[-1] == 3, 3 if len(shape) == 3 else 1
    x = torch.arange(2 * int(np.prod(shape)), dtype=torch.double).reshape(2, *shape)
    seen = conv_encoder(shape, 5, (4, 2)).double()[0](x.flatten(1))
    whole = x.reshape(2, 1, *shape) if channels == 1 else x.movedim(-1, 1) if last else x
    torch.testing.assert_close(seen, whole, rtol=0, atol=0)
    decoder = conv_decoder(2, shape, 4, (4, 2)).double()
    z = torch.randn(2, 2, dtype=torch.double)
    raw = decoder[:-1](z).unflatten(1, (channels, 4))
    found = decoder(z).reshape(2, *shape, 4)
    place = (slice(None), 5, 6) if channels == 1 else (slice(None), 5, 6, 1) if last else (slice(None), 1, 5, 6)
    torch.testing.assert_close(found[place], raw[:, min(1, channels - 1), :, 5, 6], rtol=0, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("likelihood", ["bernoulli", "normal", "binomial", "categorical"])
def test_the_density_is_that_of_the_same_rows(shape: tuple[int, ...], likelihood: str) -> None:
    x = pictures(shape)
    model, flat = (zoo.build("vae", data, latent=2, hidden=(5,), likelihood=likelihood) for data in (x, x.flatten(1)))
    z = torch.randn(3, len(x), 2, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.log_joint(x, z), flat.log_joint(x.flatten(1), z))
    _, drawn = model.simulate(x, seed=0)
    assert drawn.shape == x.shape
    assert model.predict(x, z)["x"].shape == (3, *x.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("network", "text"), [("mlp", "mean_field:encoder(hidden=(8,))"), (
    "conv", "mean_field:encoder(network='conv', hidden=(4,))")])
def test_own_networks_train_on_pictures(shape: tuple[int, ...], network: str, text: str) -> None:
    x = pictures(shape)
    model = zoo.build("vae", x, latent=2, network=network, hidden=(4,))
    guide = guides.build(text, model, x)
    before = log_weights(model, guide, x, 64).elbo().value
    experiments.fit(model, guide, x, steps=40, method="svi", batch_size=12)
    assert log_weights(model, guide, x, 64).elbo().value > before + 2 * len(x)
    tree = experiments.posterior(model, guide, x, draws=5)
    assert tree["posterior_predictive"]["x"].shape[-len(shape):] == shape


@pytest.mark.parametrize("shape", SHAPES)
def test_figures_show_pictures(shape: tuple[int, ...]) -> None:
    import matplotlib.pyplot as plt

    x = pictures(shape)
    table = experiments.compare(
        zoo.build("vae", x, latent=2, network="conv", hidden=(4,)), x, "mean_field:encoder(hidden=(4,))", steps=5,
        effort="none")
    guide = table.rows[0].fit.guide
    for figure in (
            reconstructions(table, guide, shape, 3), worst_units(table, guide.text, shape, 3),
            traversal(table, guide, shape, 2, 3), prior_samples(table.model, shape, side=2)):
        drawn = figure.axes[0].images[0].get_array()
        assert drawn is not None
        assert drawn.shape == ((8, 12, 3) if len(shape) == 3 else shape)
        plt.close(figure)
    first = reconstructions(table, guide, shape, 3)
    shown = first.axes[0].images[0].get_array()
    expected = table.x[0].movedim(0, -1) if shape[0] == 3 else table.x[0]
    np.testing.assert_array_equal(np.asarray(shown), expected.numpy())
    plt.close(first)


def test_files_of_colour_pictures(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2, (6, 4, 4, 3)).astype(np.uint8)
    np.save(tmp_path / "x.npy", values)
    data = zoo.dataset(str(tmp_path / "x.npy"), "images")
    assert data.shape == (4, 4, 3)
    assert torch.equal(data.x.reshape(6, 4, 4, 3), torch.from_numpy(values).double())


@pytest.mark.parametrize(("shape", "given", "message"), [
    ((8, 8, 5), {}, "expected pictures of shape (h, w), (h, w, c) or (c, h, w) with 1, 3 or 4 channels; got (8, 8, 5)"),
    ((2, 2, 2, 3), {}, "expected pictures of shape (h, w)"),
    ((6, 8, 3), {"network": "conv"}, "expected pictures with sides divisible by 4 for network conv; got shape (6, 8, 3)")])
def test_other_shapes_are_refused(shape: tuple[int, ...], given: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError) as caught:
        zoo.build("vae", torch.zeros(4, *shape, dtype=torch.double), **given)
    assert message in str(caught.value)


def test_a_linear_vae_takes_rows_alone() -> None:
    with pytest.raises(ZooError, match="expected a floating tensor of shape"):
        zoo.build("linear_vae", pictures((8, 8, 3)))


# -- networks of a user's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "decoder"), [
    ((3, 8, 12), lambda: convolutions(3, 8, 12)), ((8, 12, 3), lambda: nn.Linear(2, 288)), ((8, 8), lambda: nn.Linear(2, 64))])
def test_a_users_networks_on_pictures(shape: tuple[int, ...], decoder: Callable[[], nn.Module]) -> None:
    x = pictures(shape)
    own, encoder = decoder(), Encoder(int(np.prod(shape)))
    model = zoo.build("vae", x, latent=2, network=own)
    guide = guides.build("mean_field:encoder", model, x, network=encoder)
    assert {id(p) for p in own.parameters()} <= {id(p) for p in model.parameters()}
    assert {id(p) for p in guide.parameters()} == {id(p) for p in encoder.parameters()}
    before = log_weights(model, guide, x, 64).elbo().value
    experiments.fit(model, guide, x, steps=60, method="svi")
    assert log_weights(model, guide, x, 64).elbo().value > before + 2 * len(x)


def test_a_users_encoder_takes_pictures_in_their_shape() -> None:
    x = pictures((3, 8, 12))
    encoder = nn.Sequential(nn.Conv2d(3, 2, 4, 4), nn.Flatten(), nn.Linear(12, 4))
    guide = guides.build("mean_field:encoder", zoo.build("vae", x, latent=2), x, network=encoder)
    flat = x.flatten(1)
    spread = flat.std(0, unbiased=False)
    standard = ((flat - flat.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))).reshape(x.shape)
    with torch.no_grad():
        torch.testing.assert_close(guide.posterior(x).mean, encoder(standard)[:, :2])


def test_a_pair_is_loc_and_scale() -> None:
    x = zoo.dataset("wine", standardise=True).tensor
    model, encoder = zoo.build("ppca", x), Encoder(13)
    for text in ("mean_field:encoder", "mean_field:semi"):
        guide = guides.build(text, model, x, network=encoder)
        with torch.no_grad():
            loc, scale = encoder((x - x.mean(0)) / x.std(0, unbiased=False))
            torch.testing.assert_close(guide.posterior(x).mean, loc)
            torch.testing.assert_close(guide.posterior(x).stddev, scale)
    one = experiments.fit(model, guides.build("mean_field:encoder", model, x, network=encoder), x, steps=20)
    assert one.guide.new_units


@pytest.mark.parametrize(("text", "network", "message"), [
    ("full_rank:encoder", Encoder(13), "expected an encoder network that returns one tensor with loc, tril side by side; got"),
    ("mean_field:encoder", Encoder(13, sign=-1.0), "expected positive scales from an encoder network that returns"),
    ("mean_field:encoder", Encoder(12), "an encoder network from (units, 13) to (units, 4); got one that fails on 2 units"),
    ("mean_field:encoder", nn.LSTM(13, 4), "got an output of shape tuple")])
def test_pairs_that_do_not_fit(text: str, network: nn.Module, message: str) -> None:
    x = zoo.dataset("wine", standardise=True).tensor
    with pytest.raises(ZooError) as caught:
        guides.build(text, zoo.build("ppca", x), x, network=network)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("likelihood", ["categorical", "normal", "binomial"])
def test_decoders_of_colour_start_at_the_level_of_their_data(likelihood: str) -> None:
    x = torch.randint(0, 3, (20, 3, 8, 8), generator=torch.Generator().manual_seed(0)).double()
    model = zoo.build("vae", x, latent=2, network="conv", likelihood=likelihood)
    assert bool(model.log_joint(x, torch.zeros(1, 20, 2).double()).isfinite().all())
