"""The parts themselves, which are imported when they are used."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

from experiments.fits.result import Outcome
from experiments.inference.method import Method
from experiments.inference.options import Options
from guides.families.gaussian import MeanField
from zoo.datasets.frame import Frame
from zoo.model import Model


def spirals():
    """A spiral in the plane."""
    angle = np.linspace(0.5, 6.0, 200)
    return Frame(pd.DataFrame({"across": angle * np.cos(angle), "up": angle * np.sin(angle)}))


class Spiral(Model):
    """z ~ N(0, 1), x ~ N(w z, s²): a line through a spiral; it does not fit, and that is the point of evidence."""

    pure = True

    def __init__(self, x, noise: float = 2.0):
        super().__init__()
        self.noise, self.columns = noise, x.shape[1]

    def forward(self, x):
        like = x.new_zeros(())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(like, 1.0))
            mean = torch.stack([z * (k + 1) for k in range(self.columns)], -1)
            pyro.sample("x", dist.Normal(mean, like + self.noise).to_event(1), obs=x)


class Wide(MeanField):
    """Independent normals that begin twice as wide."""

    def initial(self, start):
        phi = super().initial(start)
        return {**phi, "log_scale": phi["log_scale"] + np.log(2.0)}


class PriorMatch(Method[Options]):
    """Leaves the guide where it begins."""

    name = "prior_match"

    def misfit(self, problem):
        return ""

    def suits(self, guide, latents):
        return False

    def run(self, problem, options, watch):
        return Outcome(0, 0.0, True)
