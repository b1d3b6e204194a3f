"""Every registered model with every guide that fits it, on the data it is shown on: the contract tests run over these."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch

import guides
import zoo
from experiments.inference.fit import fit
from experiments.log_evidence.log_weights import Estimate, log_weights
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.distributions.enumerated import Enumerated
from zoo.model import Model
from zoo.registry import GREY_KINDS

#: Rows, and columns, kept of each kind of data, so that one test takes no more than seconds: of images enough for a decoder of
#: theirs. Data of other kinds stay whole.
SIZES = {"table": (60,), "images": (120,), "grouped_regression": (60,), "responses": (20, 6), "counts": (8, 6),
         "ratings": (16,), "labelled_images": (60,)}
#: Steps of sequences kept.
STEPS = {"sequences": 4}


def begun(name: str) -> tuple[Model, Data]:
    """Return a registered model at its start, and its data."""
    entry = zoo.MODELS[name]
    binarise = {"binarise": "static"} if entry.takes in GREY_KINDS else {}
    x = zoo.dataset(entry.data, entry.takes, standardise=entry.standardises({}), **binarise).x
    x = cut(x, SIZES.get(entry.takes, ()))
    if entry.takes in STEPS:
        x = {"y": x["y"][:, :STEPS[entry.takes]], "length": x["length"].clamp(max=STEPS[entry.takes])}
    return zoo.build(name, x), x


def cut(x: Data, sizes: tuple[int, ...]) -> Data:
    """Return the first rows of all entries, and the first columns of a table, as many as ``sizes`` says."""
    if isinstance(x, torch.Tensor):
        return x[tuple(map(slice, sizes))]
    return {name: value[tuple(map(slice, sizes[:1]))] for name, value in x.items()}


@cache
def case(name: str) -> tuple[Model, Data]:
    """Return a registered model with θ near its maximum, and its data. Shared between tests: do not move θ."""
    entry = zoo.MODELS[name]
    model, x = begun(name)
    if list(model.parameters()):
        em = entry.exact and entry.latents != "none"
        fit(model, "exact" if entry.exact else model.train_with, x, steps=20 if em else 100)
    return model, x


@cache
def fitted(name: str, text: str) -> BaseGuide:
    """Return a guide after a short fit to a case's θ. Shared between tests: do not move φ."""
    model, x = case(name)
    guide = guides.build(text, model, x)
    if guide.size:
        # Another seed than the tests evaluate with: φ of a unit's own learns the noise that it was trained on.
        fit(model, guide, x, train_model=False, steps=40 if ":" not in text else 80, seed=1001)
    return guide


@dataclass(frozen=True)
class Reduced:
    """What a pair's log weights come to."""

    elbo: Estimate
    reconstruction: Estimate
    kl_prior: Estimate


@cache
def reduced(name: str, text: str) -> Reduced:
    """Return the reductions of a pair's log weights: of 2,048 draws, of 512 from the prior. Drawn once for all tests."""
    model, x = case(name)
    weights = log_weights(model, fitted(name, text), x, 512 if text == "prior" else 2048)
    return Reduced(weights.elbo(), weights.reconstruction(), weights.kl_prior())


#: Guides of two blocks, of models in which rows share latents and own others.
BLOCKS = ("full_rank+mean_field", "mean_field+full_rank:free(shared=True)", "low_rank+flow:encoder(shared=True)")
PAIRS = [
    (model, guide) for model, entry in zoo.MODELS.items()
    for guide in [*guides.fitting_guides(entry.facts(model)), *(BLOCKS if entry.local else ())]]
TRAINED = [pair for pair in PAIRS if pair[1] not in ("exact", "prior")]
#: Of these models every guide is tested each time; of others those of EACH_TIME, of the one in NETWORKS encoders, too. The rest
#: is by make long, and all of those in SLOW, whose fits take over ten seconds.
WHOLE, NETWORKS, SLOW = ("gmm", "ppca", "eight_schools"), "vae", ("semi_supervised_vae",)
EACH_TIME, ENCODERS = ("exact", "mean_field", "categorical"), ("full_rank:semi", "flow:encoder")


def each(pairs: list[tuple[str, str]]) -> list[Any]:
    """Return pairs to parametrise a test by."""
    def late(model: str, guide: str) -> bool:
        quick = guide in EACH_TIME and model not in SLOW
        return model not in WHOLE and not quick and not (model == NETWORKS and guide in ENCODERS)

    return [pytest.param(*pair, marks=pytest.mark.long) if late(*pair) else pair for pair in pairs]


EXACT = [name for name, entry in zoo.MODELS.items() if entry.exact]
#: The models with parameters θ: read off models at their start, as nothing is to be fitted while tests are collected.
MOVING = [name for name in zoo.MODELS if list(begun(name)[0].parameters())]


def points(model: Model, guide: BaseGuide, x: Data, draws: int = 64, seed: int = 0) -> tuple[torch.Tensor, Any]:
    """Return z (draws, units, d) from the guide and its distribution."""
    from zoo.distributions.scored import scored

    with zoo.seeded(seed), torch.no_grad():
        q = guide.posterior(x)
        return (q.enumerate_support() if isinstance(q, Enumerated) else scored(q, draws)[0]), q


def held_elbo(model: Model, guide: Any, x: Data, noise: torch.Tensor) -> torch.Tensor:
    """Return the ELBO that fixed-draw optimisation sees on ``noise``."""
    from experiments.inference.fixed_draws.elbo import held_terms

    reconstruction, kl = held_terms(model, guide, x, noise)
    return reconstruction - kl
