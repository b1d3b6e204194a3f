"""A Bayesian neural network for regression."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.data import Data
from zoo.errors import check_number
from zoo.model import Model
from zoo.models.regression import check_design


class BayesianNeuralNetwork(Model):
    """Regression by a network of one hidden layer with priors on all of its weights.

    f(x) = Σ_h weights_h tanh(x hidden_weights_h + hidden_bias_h) + bias, y_i ~ N(m + s f(x_i), (s · noise)²), with
    hidden_weights, hidden_bias, bias ~ N(0, 1), weights_h ~ N(0, 1 / hidden) and noise ~ HalfNormal(1); m and s are the mean
    and standard deviation of y. All rows share these: the data set is one unit.

    Renumbering the hidden units, or turning the sign of all weights of one of them, leaves the density as it is: the posterior
    has hidden! · 2^hidden equal modes. A guide on one of them has a gap of the logarithm of their number, where they lie
    apart: 3.9 nats of 3 hidden units.

    Args:
        x: ``{"X": (rows, D), "y": (rows,)}``; standardise the columns of X, as the priors expect. Y is scaled here.
        hidden: how many hidden units.

    Raises:
        ZooError: an entry is missing, not finite, of other length; X has a constant column; hidden is below 1.

    Source: Neal (1996), Bayesian learning for neural networks, Springer, https://doi.org/10.1007/978-1-4612-0745-0; MacKay
    (1992), A practical Bayesian framework for backpropagation networks, https://doi.org/10.1162/neco.1992.4.3.448

    >>> x = {"X": torch.randn(20, 2), "y": torch.randn(20)}
    >>> model = BayesianNeuralNetwork(x)
    >>> model.latents(x).size, model.equal_modes
    (14, 48)
    """

    pure = True
    dims = {"hidden_weights": ("column", "unit"), "hidden_bias": ("unit",), "weights": ("unit",)}
    centre: Tensor
    spread: Tensor

    def __init__(self, x: Data, hidden: int = 3):
        super().__init__()
        y = check_design(x, self.label)["y"]
        check_number("hidden", hidden, whole=True, least=1, mend="set --hidden")
        self.hidden = hidden
        self.register_buffer("centre", y.mean())
        spread = y.std()
        self.register_buffer("spread", torch.where(spread > 0, spread, 1.0))

    def forward(self, x: dict[str, Tensor]) -> None:
        standard = dist.Normal(self.spread.new_zeros(()), 1.0)
        hidden_weights = pyro.sample(
            "hidden_weights", standard.expand([x["X"].shape[1], self.hidden]).to_event(2))
        hidden_bias = pyro.sample("hidden_bias", standard.expand([self.hidden]).to_event(1))
        narrow = dist.Normal(self.spread.new_zeros(()), self.hidden**-0.5)
        weights = pyro.sample("weights", narrow.expand([self.hidden]).to_event(1))
        bias = pyro.sample("bias", standard)
        noise = pyro.sample("noise", dist.HalfNormal(torch.ones_like(self.spread)))
        f = (x["X"] @ hidden_weights + hidden_bias).tanh() @ weights + bias
        with pyro.plate("rows", len(x["y"])):
            mean = pyro.deterministic("mean", self.centre + self.spread * f)
            pyro.sample("y", dist.Normal(mean, self.spread * noise), obs=x["y"])

    @property
    def equal_modes(self) -> int:
        """How many modes the posterior has that differ in the hidden units' numbers and signs alone."""
        return math.factorial(self.hidden) << self.hidden

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return hidden units at random (torch's generator), and the output layer that is best given them: a ridge regression.

        At the prior's middle, where all weights are nothing, no weight has a gradient.
        """
        data = check_design(x, self.label)
        table, y = data["X"], (data["y"] - self.centre) / self.spread
        directions = torch.randn(table.shape[1], self.hidden, dtype=table.dtype, device=table.device) / table.shape[1] ** 0.5
        offsets = 0.5 * torch.randn(self.hidden, dtype=table.dtype, device=table.device)
        features = torch.cat([(table @ directions + offsets).tanh(), torch.ones_like(y)[:, None]], 1)
        penalty = torch.ones_like(features[0]).index_fill(0, torch.arange(self.hidden, device=y.device), float(self.hidden))
        solved = torch.linalg.solve(features.T @ features + penalty.diag(), features.T @ y)
        noise = (y - features @ solved).square().mean().sqrt().clamp(0.05, 1.0)
        return {
            "hidden_weights": directions, "hidden_bias": offsets, "weights": solved[:-1], "bias": solved[-1], "noise": noise}

    def extra_repr(self) -> str:
        return f"hidden={self.hidden}"
