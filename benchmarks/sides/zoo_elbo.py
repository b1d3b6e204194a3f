"""The zoo's side of fitting normal guides."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import experiments
import zoo
from benchmarks.contenders import Arrays
from experiments import Moment
from zoo.data import Data

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


def trace(arrays: Arrays, model: str, family: str) -> list[tuple[float, Normal]]:
    """Return the guide after each step, with the seconds since the call of ``fit``; the time to copy it is not counted."""
    watch = Snapshots(time.perf_counter(), normal)
    x = data(arrays)
    experiments.fit(zoo.build(model, x), family, x, progress=False, callbacks=[watch])
    return watch.taken


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
