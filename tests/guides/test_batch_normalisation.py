"""Batch normalisation, which can't be trained on one unit at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import experiments
import guides
import zoo


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(21, 3)


def encoder() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))


def test_an_encoder_is_refused_a_batch_of_one_before_the_fit(x: Tensor) -> None:
    model = zoo.build("ppca", x, latent=2)
    guide = guides.build("mean_field:encoder", model, x, network=encoder())
    before = {name: value.clone() for name, value in guide.state_dict().items()}
    with pytest.raises(zoo.ZooError, match=(
            r"expected 2 units or more a step for the BatchNorm1d 'amortisation.network.1' of guide, which averages over them; "
            r"got 1; raise batch_size, or use LayerNorm")) as caught:
        experiments.fit(model, guide, x, method="svi", batch_size=1)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in guide.state_dict().items())
    experiments.fit(model, guide, x, method="svi", batch_size=2, steps=25)  # 21 units in twos: no step is of one unit alone


def test_a_decoder_is_refused_it_only_while_it_trains(x: Tensor) -> None:
    network = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model = zoo.build("vae", x, network=network, latent=2, likelihood="normal")
    with pytest.raises(zoo.ZooError, match=r"for the BatchNorm1d 'network.1' of vae, which averages"):
        experiments.fit(model, "mean_field:encoder", x, batch_size=1)
    assert experiments.fit(model, "mean_field:encoder", x, batch_size=1, steps=5, train_model=False).steps == 5


def test_one_image_is_enough_where_a_channel_has_many_values(x: Tensor) -> None:
    images = (torch.rand(12, 16) < 0.5).float()
    network = nn.Sequential(
        nn.Unflatten(-1, (1, 4, 4)), nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Flatten(-3), nn.Linear(32, 4))
    model = zoo.build("vae", images, latent=2, hidden=(4,))
    guide = guides.build("mean_field:encoder", model, images, network=network)
    assert experiments.fit(model, guide, images, batch_size=1, steps=5).steps == 5
