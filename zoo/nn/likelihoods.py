"""Likelihoods p(x | z) of a row's columns given what a decoder network puts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import constraints

from zoo.errors import ZooError

#: The smallest scale of a normal likelihood, in units of the columns' pooled standard deviation.
FLOOR = 1e-3

#: The largest count of a categorical likelihood, whose network has an output for each column and level.
MOST_LEVELS = 1023


class Likelihood(PyroModule):
    """Independent columns given the network's ``outputs`` numbers a column.

    Args:
        x: (rows, columns), or pictures, whose numbers are the columns; checked against the support.
        levels: for counts: the largest count; 0: the largest in x.
    """

    #: Numbers that the network puts out for each column.
    outputs = 1

    def __init__(self, x: Tensor, levels: int = 0):
        super().__init__()
        self.event = x.shape[1:]

    def arranged(self, output: Tensor, *more: int) -> Tensor:
        """Return numbers (…, columns · more) in the shape of a row of x, (…, *event, *more)."""
        return output.unflatten(-1, (*self.event, *more)) if len(self.event) + len(more) > 1 else output

    @property
    def unit(self) -> float:
        """What the network's outputs are measured in, in the units of x."""
        return 1.0

    def narrow(self, factor: float) -> None:
        """Multiply the noise that the likelihood starts with, where it has any."""

    def forward(self, output: Tensor) -> Any:
        """Return p(x | z), the event a row of x, for the network's output (…, columns · outputs)."""
        raise NotImplementedError("a likelihood says what its distribution is")

    def bias(self, x: Tensor) -> Tensor:
        """Return what the network should put out at the start, (columns · outputs,): the columns' own level."""
        raise NotImplementedError("a likelihood says where it starts")


class BernoulliLogits(dist.Bernoulli):  # type: ignore[misc]
    """Bernoulli(sigmoid(logits)), whose log-probability is log sigmoid(±logits), + where x = 1.

    That is what torch's computes, to float precision, in a third of the time: here it is the costliest part of a decoder. With
    its gradient, x · logits − softplus(logits) takes half as long again.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.nn.functional.logsigmoid((2 * value - 1) * self.logits)


class Bernoulli(Likelihood):
    """x_j ~ Bernoulli(sigmoid(output_j))."""

    def __init__(self, x: Tensor, levels: int = 0):
        super().__init__(x)
        low, high = float(x.min()), float(x.max())
        if low < 0 or high > 1:
            mend = "divide by 255" if low >= 0 and high <= 255 else "rescale them, or use likelihood normal"
            raise ZooError(
                f"expected images in [0, 1] for likelihood bernoulli; got values from {low:g} to {high:g}; {mend}; binarise")
        if not bool(((x == 0) | (x == 1)).all()):
            raise ZooError(
                "expected 0 or 1 for likelihood bernoulli; got grey values between them; binarise the images "
                "(--binarise static, or zoo.dataset(..., 'images', binarise='static'))")

    def forward(self, output: Tensor) -> Any:
        return BernoulliLogits(logits=self.arranged(output)).to_event(len(self.event))

    def bias(self, x: Tensor) -> Tensor:
        return _logit(x.sum(0), len(x))


class Normal(Likelihood):
    """x_j ~ N(output_j, scale²), one learned scale for all columns."""

    scale: Any

    def __init__(self, x: Tensor, levels: int = 0):
        super().__init__(x)
        pooled = x.var(0, unbiased=False).mean().sqrt()
        if not float(pooled) > 0:
            raise ZooError("expected columns that vary for likelihood normal; got constant ones alone; use other data")
        self.floor = float(FLOOR * pooled)
        self.scale = PyroParam(pooled, constraints.greater_than(self.floor))

    def narrow(self, factor: float) -> None:
        self.scale = factor * self.scale.detach()

    @property
    def unit(self) -> float:
        return float(self.scale.detach())

    def set_scale(self, scale: Tensor) -> None:
        """Set the scale, held above the floor."""
        self.scale = scale.clamp(min=2 * self.floor)

    def forward(self, output: Tensor) -> Any:
        return dist.Normal(self.arranged(output), self.scale).to_event(len(self.event))

    def bias(self, x: Tensor) -> Tensor:
        return x.mean(0)


class Counts(Likelihood):
    """A likelihood of whole numbers from 0 to ``levels``."""

    def __init__(self, x: Tensor, levels: int = 0):
        super().__init__(x)
        whole = (x >= 0) & (x == x.round())
        if not bool(whole.all()):
            bad = float(x[~whole][0])
            raise ZooError(
                f"expected whole numbers from 0 up for a likelihood of counts; got {bad:g}; use data of kind counts, or "
                "likelihood normal")
        if not int(x.max()):
            raise ZooError("expected counts above 0 for a likelihood of counts; got zeros alone; use other data")
        self.levels = levels or int(x.max())
        if self.levels < max(1, int(x.max())):
            raise ZooError(f"expected levels to be at least the largest count {int(x.max())}; got {levels}; raise --levels")


class Binomial(Counts):
    """x_j ~ Binomial(levels, sigmoid(output_j))."""

    def forward(self, output: Tensor) -> Any:
        return dist.Binomial(self.levels, logits=self.arranged(output)).to_event(len(self.event))

    def bias(self, x: Tensor) -> Tensor:
        return _logit(x.sum(0), self.levels * len(x))


class Categorical(Counts):
    """x_j ~ Categorical(softmax(outputs of column j)) over 0 … levels."""

    def __init__(self, x: Tensor, levels: int = 0):
        super().__init__(x, levels)
        if self.levels > MOST_LEVELS:
            raise ZooError(
                f"expected counts up to {MOST_LEVELS} for likelihood categorical, which has an output for each; got "
                f"{self.levels}; use likelihood binomial or normal")

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.levels + 1

    def forward(self, output: Tensor) -> Any:
        return dist.Categorical(logits=self.arranged(output, self.outputs)).to_event(len(self.event))

    def bias(self, x: Tensor) -> Tensor:
        counts = torch.stack([(x == level).sum(0) for level in range(self.outputs)], -1).to(x)
        return ((counts + 1) / (len(x) + self.outputs)).log().flatten()


LIKELIHOODS: Mapping[str, type[Likelihood]] = {
    "bernoulli": Bernoulli, "normal": Normal, "binomial": Binomial, "categorical": Categorical}


def _logit(ones: Tensor, trials: int) -> Tensor:
    """Return the logit of each column's share of ones, drawn in so that it is finite."""
    return (ones + 0.5).log() - (trials - ones + 0.5).log()
