"""The cases of the benchmark time-to-elbo, and the judge that computes the ELBOs of all contenders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import guides
import zoo
from benchmarks.contenders import Arrays
from benchmarks.sides.zoo_elbo import Normal, data
from zoo.data import Data
from zoo.model import Model

FAMILIES = ("mean_field", "full_rank")
#: Models whose start all contenders are given: from another, they would come to another of many modes.
GIVEN = ("bayesian_gmm",)
#: Draws that a judge takes, those that say where it is worth while to look closer, and how many go into memory at once.
DRAWS, FEW, CHUNK = 2**14, 2**9, 2**10


@dataclass(frozen=True)
class Case:
    """A registered model on data, and the arrays that all contenders get: the data and the start, by name."""

    name: str
    model: str
    arrays: Arrays

    @property
    def numbers(self) -> int:
        """The count of numbers in the data."""
        return sum(value.size for name, value in self.arrays.items() if name.startswith("data."))

    def build(self) -> tuple[Model, Data]:
        """Return the zoo's model and its data."""
        x = data(self.arrays)
        return zoo.build(self.model, x), x


def cases() -> list[Case]:
    """Return every case; the start is the prior's median, or the model's own start for models in :data:`GIVEN`."""
    cancer = zoo.dataset("breast_cancer", "binary", standardise=True).x
    found: list[tuple[str, str, Data]] = [
        ("eight_schools", "eight_schools", zoo.dataset("eight_schools").x), ("breast_cancer", "logistic_regression", cancer),
        ("digits, odd or even", "logistic_regression", parity()), ("faithful", "bayesian_gmm", zoo.dataset("faithful").x)]
    return [_case(name, model, x) for name, model, x in found]


def parity() -> Mapping[str, Tensor]:
    """Return the digits' non-constant columns, standardised, and whether each digit is odd."""
    x, digit = load_digits(return_X_y=True)
    x = x[:, x.std(0) > 0]
    return {"X": torch.from_numpy((x - x.mean(0)) / x.std(0, ddof=1)), "y": torch.from_numpy(digit % 2).double()}


def _case(name: str, model: str, x: Data) -> Case:
    given = {"x": x} if isinstance(x, Tensor) else dict(x)
    built = zoo.build(model, x)
    if model not in GIVEN:
        built.start = lambda x: None  # type: ignore[method-assign]
    loc = guides.build("mean_field", built, x).posterior(x).mean.detach()
    sites = {site.name for site in built.latents(x).sites}
    start = {site: value[0] for site, value in built.constrain(x, loc[None]).items() if site in sites}
    points = loc + torch.randn(5, loc.shape[1], generator=torch.Generator().manual_seed(0), dtype=loc.dtype)
    return Case(name, model, {
        **{f"data.{k}": v.numpy() for k, v in given.items()}, **{f"start.{k}": v.numpy() for k, v in start.items()},
        "points": points.numpy()})


class Judge:
    """The ELBO of a normal in the zoo's coordinates, from the same quasi-random draws for all contenders.

    The draws have mean zero and identity covariance, so that the mean of any quadratic is exact; the entropy is in closed form.
    """

    def __init__(self, case: Case):
        self.model, self.x = case.build()
        size = self.model.latents(self.x).size
        self.noise = {draws: noise(draws, size) for draws in (FEW, DRAWS)}

    def __call__(self, normal: Normal, draws: int = DRAWS) -> float:
        """Return the ELBO in nats, −∞ where it is not finite."""
        loc, factor = (torch.tensor(part) for part in normal)
        # Not by the diagonal: a peer that packs the sites in another order has a factor that is no triangle in this one.
        entropy = torch.linalg.slogdet(factor)[1] + 0.5 * len(loc) * (1 + math.log(2 * math.pi))
        with torch.no_grad():
            z = (loc + self.noise[draws] @ factor.T)[:, None]
            joint = torch.cat([self.model.log_joint(self.x, part) for part in z.split(CHUNK)]).mean()
        value = float(joint + entropy)
        return value if math.isfinite(value) else -math.inf

    def log_joint(self, points: np.ndarray) -> np.ndarray:
        """Return log p(x, z) at points (points, d)."""
        with torch.no_grad():
            return self.model.log_joint(self.x, torch.tensor(points)[:, None])[:, 0].numpy()


@cache
def noise(draws: int, size: int) -> Tensor:
    """Return quasi-random standard normals (draws, size), antithetic, of mean zero and identity second moment."""
    uniform = torch.quasirandom.SobolEngine(size, scramble=True, seed=9973).draw(draws // 2, dtype=torch.float64)
    half = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    noise = torch.cat([half, -half])
    factor = torch.linalg.cholesky(noise.T @ noise / draws)
    whitened: Tensor = torch.linalg.solve_triangular(factor, noise.T, upper=False).T
    return whitened.contiguous()
