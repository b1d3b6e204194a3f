"""The zoo's side of fitting normal guides."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import experiments
import guides
import zoo
from benchmarks.contenders import Arrays
from experiments import Moment
from guides.families.family import own_start
from guides.guide import BaseGuide
from zoo.data import Data
from zoo.model import Model

#: A normal in unconstrained coordinates, the program's order: its mean (d,) and a factor of its covariance (d, d).
Normal = tuple[np.ndarray, np.ndarray]


def data(arrays: Arrays) -> Data:
    """Return the data that ``arrays`` holds: a tensor if it is called x, else a mapping."""
    found = {name.removeprefix("data."): torch.tensor(value) for name, value in arrays.items() if name.startswith("data.")}
    return found.get("x", found)


def run(arrays: Arrays, model: str, family: str, **options: Any) -> Normal:
    """Build the model, fit a free guide to it until its own rule stops it; return the guide."""
    x = data(arrays)
    return normal(experiments.fit(zoo.build(model, x), family, x, progress=False, **options).guide, x)


def reach(arrays: Arrays, model: str, family: str, step: int, given: bool) -> Normal:
    """Fit a guide from its start until ``step`` steps are taken, after those of a contained family's fit; return it.

    The first call builds the model and the guide and writes the program's operations down; later ones go on with these, as a
    second fit of a model does. Where a start is not ``given`` to all contenders, the model finds its own each time.
    """
    built = _built(arrays, model, family)
    built.guide.load_state_dict(built.start)
    loc = None if given else own_start(built.model, built.x)
    if loc is not None:
        with torch.no_grad():
            built.guide.get_parameter("amortisation.phi.loc").copy_(loc)
    with suppress(Reached):
        experiments.fit(built.model, built.guide, built.x, progress=False, callbacks=[Until(step)], start="contained")
    return normal(built.guide, built.x)


def trace(arrays: Arrays, model: str, family: str) -> list[tuple[float, Normal]]:
    """Return the guide after each step, with the seconds since the call of ``fit``; the time to copy it is not counted."""
    watch = Snapshots(time.perf_counter(), normal)
    x = data(arrays)
    experiments.fit(zoo.build(model, x), family, x, progress=False, callbacks=[watch])
    return watch.taken


@dataclass(frozen=True)
class Built:
    """A model and a guide on their data, and the guide's parameters where it starts."""

    model: Model
    guide: BaseGuide
    x: Data
    start: dict[str, torch.Tensor]


_BUILT: dict[tuple[Any, ...], Built] = {}


def _built(arrays: Arrays, model: str, family: str) -> Built:
    """Return what a case needs: made once, then kept with its arrays, which are told from others by identity."""
    key = id(arrays), model, family
    if key not in _BUILT:
        x = data(arrays)
        made = zoo.build(model, x)
        guide = guides.build(family, made, x)
        _BUILT[key] = Built(made, guide, x, {name: value.clone() for name, value in guide.state_dict().items()})
    return _BUILT[key]


class Reached(BaseException):  # what a callback raises otherwise is caught, and the fit goes on
    """The fit has come to where it was to end."""


class Until(experiments.Callback):
    """Ends a fit after so many steps."""

    def __init__(self, step: int):
        self.step = step

    def on_step(self, now: Moment) -> None:
        if now.step >= self.step:
            raise Reached


def normal(guide: Any, x: Data) -> Normal:
    """Return a guide of one unit as mean and factor."""
    with torch.no_grad():
        q = guide.posterior(x)
        factor = q.scale_tril[0] if hasattr(q, "scale_tril") else torch.diag(q.stddev[0])
        return q.mean[0].numpy(), factor.numpy()


class Snapshots(experiments.Callback):
    """Copies of the guide after each step, ``read`` from it and its data, with the seconds since ``begun``."""

    def __init__(self, begun: float, read: Callable[[Any, Data], Any]):
        self.begun, self.before, self.read = begun, 0.0, read
        self.taken: list[tuple[float, Any]] = []

    def on_start(self, now: Moment) -> None:
        self.before = time.perf_counter() - self.begun

    def on_step(self, now: Moment) -> None:
        self.taken.append((self.before + now.seconds, tuple(part + 0 for part in self.read(now.guide, now.x))))
