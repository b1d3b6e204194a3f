"""The semi-supervised variational autoencoder: rows with classes, of which some are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from zoo.data import Data, check_mapping
from zoo.errors import ZooError, check_number, chosen
from zoo.model import Model
from zoo.models.vae import check_rows, start_at_level
from zoo.nn.likelihoods import Bernoulli, Likelihood, Normal
from zoo.nn.networks import check_hidden, network_kind
from zoo.structure.learned import Form

LIKELIHOODS: Mapping[str, type[Likelihood]] = {"bernoulli": Bernoulli, "normal": Normal}


class SemiSupervisedVAE(Model):
    """class_i ~ uniform, z_i ~ N(0, I), x_i ~ likelihood(network(z_i, class_i)): Kingma et al.'s M2. Each row is a unit.

    A known label is an observation of its class without error; where it is unknown, the class is summed out exactly, by
    enumeration. So the network learns from all rows what a class looks like, and z_i what a row has beside its class.
    ``experiments.posterior(…, infer_discrete=True)`` recovers ``class`` and ``class_probs``.

    Unlike M2's, the guide is one q(z_i | x_i, label_i) for all classes of a row, and there is no classifier q(class | x): the
    class's posterior follows from the model. θ: the network's weights, and the normal likelihood's ``scale``.

    Args:
        x: ``{"x": (rows, columns), "label": (rows,)}``, labels from 0 up, −1 where unknown. Sizes the model; the network starts
            at the columns' means.
        latent: d.
        likelihood: ``bernoulli`` (0 and 1) or ``normal`` (one learned scale).
        network: ``mlp`` or ``conv`` (square images).
        hidden: widths of the network's hidden layers; of ``conv``, its channels.
        classes: how many; 0: one more than the largest label.

    Raises:
        ZooError: x outside the likelihood's support, labels that are no such numbers, fewer than two classes, an unknown word,
            sizes out of range.

    Source: Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised learning with deep generative models,
    https://arxiv.org/abs/1406.5298

    >>> x = {"x": (torch.rand(20, 16) > 0.5).double(), "label": torch.arange(20).double() % 4 - 1}
    >>> model = SemiSupervisedVAE(x, latent=2)
    >>> model.latents(x).size, model.classes
    (2, 3)
    """

    pure = True
    dims = {"z": ("latent",), "x": ("column",)}
    holdout = 0.2
    train_with = "mean_field:encoder"
    learning_rate = 0.01
    known: Tensor

    def __init__(
        self, x: Data, latent: int = 8, likelihood: str = "bernoulli", network: str = "mlp", hidden: Sequence[int] = (200,),
        classes: int = 0,
    ):
        super().__init__()
        data = check_mapping(x, ("x", "label"), self.label)
        rows = check_rows(data["x"], self.label)
        check_number("latent", latent, whole=True, least=1, mend="set --latent")
        self.classes, self.latent, self.word = check_labels(data["label"], classes, self.label), latent, likelihood
        self.likelihood = chosen(LIKELIHOODS, likelihood, "likelihood")(rows).to(rows)
        decoder = network_kind(network).decoder(
            latent + self.classes, rows.shape[1:], self.likelihood.outputs, check_hidden(hidden))
        self.network = decoder.to(rows)
        start_at_level(self.network, self.likelihood, rows)
        self.register_buffer("known", torch.eye(self.classes).to(rows))
        self.eval()

    def forward(self, x: dict[str, Tensor]) -> None:
        rows, label = x["x"], x["label"]
        standard = dist.Normal(self.known.new_zeros(()), 1.0).expand([self.latent]).to_event(1)
        known: Any = label >= 0
        with pyro.plate("rows", len(rows)):
            z = pyro.sample("z", standard)
            which = pyro.sample("class", dist.Categorical(self.known.new_ones(self.classes)), infer={"enumerate": "parallel"})
            pyro.sample("x", self.decode(z, which), obs=rows)
            # An observation of the class without error, and not the class itself, so that all rows have the same latents.
            with poutine.mask(mask=known):
                pyro.sample("label", dist.Delta(which.to(label)), obs=label)

    def decode(self, z: Tensor, which: Tensor) -> Any:
        """Return p(x | z, class), event (columns,), for z (…, latent) and classes (…), broadcast against each other."""
        shape = torch.broadcast_shapes(z.shape[:-1], which.shape)
        classes = self.known[which.long()].expand(*shape, -1)
        inputs = torch.cat([z.expand(*shape, -1), classes], -1)
        output = self.network(inputs.reshape(-1, inputs.shape[-1]))  # convolutions take one batch dimension
        return self.likelihood(output.reshape(*shape, -1))

    def forms(self) -> Mapping[str, Sequence[Form]]:
        return {"likelihood.scale": (Form("noise_sd", ()),)}

    def extra_repr(self) -> str:
        return f"latent={self.latent}, classes={self.classes}, likelihood={self.word}"


def check_labels(label: Tensor, classes: int, name: str) -> int:
    """Return how many classes there are.

    Raises:
        ZooError: labels that are not (rows,) whole numbers from −1 up, fewer than two classes, or labels beyond ``classes``.
    """
    if label.ndim != 1 or bool(((label < -1) | (label != label.round())).any()):
        raise ZooError(
            f"expected labels (rows,) of whole numbers from 0 up, −1 where unknown, for {name}; got others; code them")
    check_number("classes", classes, whole=True, least=0, mend="set --classes")
    least = int(label.max()) + 1
    found = classes or least
    if found < max(2, least):
        raise ZooError(
            f"expected at least {max(2, least)} classes for {name}; got {found}; raise --classes, or label more rows")
    return found
