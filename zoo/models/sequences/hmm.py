"""Hidden Markov models whose parameters are latent."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from sklearn.cluster import KMeans
from torch import Tensor, nn

from zoo.data import Data, check_mapping, check_positive, check_table
from zoo.distributions.categorical_rows import CategoricalRows
from zoo.errors import ZooError, chosen
from zoo.model import Model
from zoo.models.gmm import cluster
from zoo.structure.quadratic import Moments


class Emission(nn.Module, abc.ABC):
    """What a state emits: the priors of its parameters, and its distribution given them.

    Args:
        y: the observations of all sequences, one after the other, (observations, …).
        states: K.
    """

    @abc.abstractmethod
    def draw(self) -> tuple[Tensor, ...]:
        """Sample the parameters of all states, inside of the plate of these."""

    @abc.abstractmethod
    def given(self, parameters: tuple[Tensor, ...], state: Tensor) -> Any:
        """Return the distribution of the observations of units in ``state``."""

    @abc.abstractmethod
    def labels(self, y: Tensor, after: Tensor) -> Tensor:
        """Return a first guess of each observation's state (observations,); ``after`` says which go on a sequence."""

    @abc.abstractmethod
    def start(self, y: Tensor, shares: Tensor) -> dict[str, Tensor]:
        """Return values of the parameters at which fits start, from the states' shares of each observation, one-hot."""


class NormalEmission(Emission):
    """μ_k ~ N(m, diag(s²)), σ_k ~ LogNormal(log(s / √K), 1/2), y | k ~ N(μ_k, diag(σ_k²)); m, s: the columns' own."""

    centre: Tensor
    spread: Tensor

    def __init__(self, y: Tensor, states: int):
        super().__init__()
        if y.ndim != 2:
            raise ZooError(f"expected y of shape (sequences, steps, columns) for emission normal; got {y.ndim + 1} dimensions; "
                           "reshape it, or use emission categorical")
        check_table(y, "hmm")
        self.states = states
        self.register_buffer("centre", y.mean(0))
        self.register_buffer("spread", y.std(0))

    def draw(self) -> tuple[Tensor, ...]:
        means = pyro.sample("means", dist.Normal(self.centre, self.spread).to_event(1))
        typical = (self.spread / self.states**0.5).log()
        return means, pyro.sample("scales", dist.LogNormal(typical, 0.5 * torch.ones_like(typical)).to_event(1))

    def given(self, parameters: tuple[Tensor, ...], state: Tensor) -> Any:
        means, scales = parameters
        return dist.Normal(means[state], scales[state]).to_event(1)

    def labels(self, y: Tensor, after: Tensor) -> Tensor:
        return cluster(y, self.states)

    def start(self, y: Tensor, shares: Tensor) -> dict[str, Tensor]:
        found = Moments.of(y, shares)
        scales = found.covariance.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-2 * self.spread)
        return {"means": found.mean, "scales": scales}


class CategoricalEmission(Emission):
    """probs_k ~ Dirichlet(1, …, 1), y | k ~ Categorical(probs_k), over the symbols 0 … C − 1."""

    ones: Tensor

    def __init__(self, y: Tensor, states: int):
        super().__init__()
        if y.ndim != 1 or bool(((y < 0) | (y != y.round())).any()):
            raise ZooError("expected y of whole numbers from 0 up, (sequences, steps), for emission categorical; got others; "
                           "code the symbols, or use emission normal")
        self.states, self.symbols = states, int(y.max()) + 1
        if self.symbols < states:
            raise ZooError(f"expected at least as many symbols as states; got {self.symbols} and {states}; set --states")
        self.register_buffer("ones", y.new_ones(self.symbols))

    def draw(self) -> tuple[Tensor, ...]:
        return (pyro.sample("probs", dist.Dirichlet(self.ones)),)

    def given(self, parameters: tuple[Tensor, ...], state: Tensor) -> Any:
        return CategoricalRows(parameters[0], state)

    def labels(self, y: Tensor, after: Tensor) -> Tensor:
        """Cluster the symbols by what comes before and after them: Cave and Neuwirth's vowels and consonants."""
        code, size = y.long(), self.symbols
        pairs = (code[:-1] * size + code[1:])[after[1:]]
        follows = torch.bincount(pairs, minlength=size * size).reshape(size, size).to(y)
        context = (torch.cat([follows, follows.T], 1) + 1 / size).sqrt()
        context = context / context.norm(dim=1, keepdim=True)
        seed = int(torch.randint(2**31 - 1, ()))
        groups = KMeans(self.states, n_init=4, random_state=seed).fit_predict(context.cpu().numpy())
        return torch.as_tensor(groups, dtype=torch.long, device=y.device)[code]

    def start(self, y: Tensor, shares: Tensor) -> dict[str, Tensor]:
        counts = shares.T @ nn.functional.one_hot(y.long(), self.symbols).to(shares) + 1
        return {"probs": counts / counts.sum(1, keepdim=True)}


EMISSIONS: Mapping[str, type[Emission]] = {"normal": NormalEmission, "categorical": CategoricalEmission}


class HMM(Model):
    """Hidden Markov model of several sequences, with priors on its parameters; the states are summed out.

    initial ~ Dirichlet(α, …, α), transition_k ~ Dirichlet(α, …, α), s_{i,1} ~ Categorical(initial), s_{i,t} | s_{i,t−1} = k ~
    Categorical(transition_k), y_{i,t} | s_{i,t} ~ emission. The states are enumerated, which is the forward algorithm;
    ``experiments.posterior(…, infer_discrete=True)`` recovers them.

    All sequences share the parameters: the data set is one unit. Relabelling the states leaves the density as it is, so the
    posterior has K! equal modes; a guide on one of them has a gap of log K! nats at least.

    Args:
        x: ``{"y": …, "length": (sequences,)}``. y is (sequences, steps, columns) for normal emissions and (sequences, steps) of
            the numbers of symbols for categorical ones; what comes after a sequence's length is not looked at. Sizes the model,
            scales its priors, and starts fits at a clustering (torch's generator).
        states: K ≥ 2.
        emission: ``normal``, with independent columns, or ``categorical``.
        concentration: α.

    Raises:
        ZooError: an entry is missing or has another shape, a length is out of range, fewer observations or symbols than states,
            a constant column, a prior not positive.

    Source: Rabiner (1989), A tutorial on hidden Markov models, Proc. IEEE 77, https://doi.org/10.1109/5.18626; Scott (2002),
    Bayesian methods for hidden Markov models, JASA 97, https://doi.org/10.1198/016214502753479464

    >>> x = {"y": torch.randn(5, 4, 2), "length": torch.tensor([4.0, 4.0, 3.0, 4.0, 1.0])}
    >>> HMM(x).latents(x).size        # 1 initial, 2 transitions, 4 means, 4 scales
    11
    """

    pure = True
    dims = {
        "initial": ("state",), "transition": ("next",), "means": ("column",), "scales": ("column",), "probs": ("symbol",)}

    def __init__(self, x: Data, states: int = 2, emission: str = "normal", concentration: float = 1.0):
        super().__init__()
        kind = chosen(EMISSIONS, emission, "emission")
        data = check_sequences(x, self.label)
        if states < 2:
            raise ZooError(f"expected at least 2 states for hmm; got {states}; raise --states")
        check_positive(self.label, concentration=concentration)
        self.states, self.concentration, self.word = states, concentration, emission
        self.emission = kind(data["y"][within(data)], states)

    def forward(self, x: dict[str, Tensor]) -> None:
        y, length, emission = x["y"], x["length"], self.emission
        flat = self.concentration * length.new_ones(self.states)
        initial = pyro.sample("initial", dist.Dirichlet(flat))
        with pyro.plate("state", self.states):
            transition = pyro.sample("transition", dist.Dirichlet(flat))
            parameters = emission.draw()
        with pyro.plate("sequences", len(y)):
            probs = initial
            for t in pyro.markov(range(y.shape[1])):
                # States go on beyond a sequence's end, where they sum to one: only what is observed is masked.
                state = pyro.sample(f"state_{t}", dist.Categorical(probs), infer={"enumerate": "parallel"})
                inside: Any = t < length
                with poutine.mask(mask=inside):
                    pyro.sample(f"y_{t}", emission.given(parameters, state), obs=y[:, t])
                probs = transition[state]

    @property
    def equal_modes(self) -> int:
        """How many modes the posterior has that differ in the labels of the states alone."""
        return math.factorial(self.states)

    def start(self, x: Data) -> dict[str, Tensor]:
        """Return the parameters that a clustering of the observations tells (torch's generator)."""
        data = check_sequences(x, self.label)
        y, inside = data["y"][within(data)], within(data)
        first = torch.zeros_like(inside).index_fill(1, torch.tensor(0, device=inside.device), True)[inside]
        shares = nn.functional.one_hot(self.emission.labels(y, ~first), self.states).to(data["length"])
        initial = shares[first].sum(0) + 1
        moves = shares[:-1][~first[1:]].T @ shares[1:][~first[1:]] + 1
        return {"initial": initial / initial.sum(), "transition": moves / moves.sum(1, keepdim=True),
                **self.emission.start(y, shares)}

    def extra_repr(self) -> str:
        return f"states={self.states}, emission={self.word}"


def within(x: Mapping[str, Tensor]) -> Tensor:
    """Return which steps belong to their sequences, (sequences, steps)."""
    return torch.arange(x["y"].shape[1], device=x["y"].device) < x["length"][:, None]


def check_sequences(x: Data, name: str) -> Mapping[str, Tensor]:
    """Return ``x`` as sequences ``y`` (sequences, steps, …) with the ``length`` of each, (sequences,)."""
    data = check_mapping(x, ("y", "length"), name)
    y, length = data["y"], data["length"]
    if y.ndim not in (2, 3) or length.ndim != 1:
        raise ZooError(
            f"expected y of shape (sequences, steps, columns) or (sequences, steps), and length (sequences,), for {name}; got "
            f"{tuple(y.shape)} and {tuple(length.shape)}; reshape them")
    bad = (length < 1) | (length > y.shape[1]) | (length != length.round())
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise ZooError(
            f"expected lengths that are whole numbers from 1 to {y.shape[1]} for {name}; got {float(length[row]):g} in row "
            f"{row}; mend it")
    return data
