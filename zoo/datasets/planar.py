"""Densities in the plane that a Gaussian can't match: toys for flows and flow priors.

Each row is an independent draw, of which ``labels`` says from which arm, moon or ring.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from zoo.datasets.frame import Frame

ROWS = 2000


def two_moons(rows: int = ROWS, noise: float = 0.1, seed: int = 0) -> Frame:
    """Two interleaved half circles of radius 1, with N(0, noise²) on both coordinates.

    Source: ``make_moons`` of scikit-learn, https://scikit-learn.org/stable/modules/generated/sklearn.datasets.make_moons.html;
    here the angles are drawn and not spaced evenly, so that rows are independent.

    >>> two_moons(rows=3).data.shape
    (3, 2)
    """
    rng = np.random.default_rng(seed)
    moon, angle = rng.integers(2, size=rows), rng.uniform(0, np.pi, rows)
    upper = np.exp(1j * angle)
    return _frame(np.where(moon == 0, upper, 1 + 0.5j - upper), moon, noise, rng)


def pinwheel(
    rows: int = ROWS, arms: int = 5, radial: float = 0.3, tangential: float = 0.05, rate: float = 0.25, seed: int = 0,
) -> Frame:
    """Arms of a pinwheel: normals along ``arms`` rays, bent by an angle of rate · exp(distance).

    An arm lies around distance 1 from the centre; ``radial`` and ``tangential`` are its standard deviations along and across.

    Source: Johnson, Duvenaud, Wiltschko, Datta and Adams (2016), Composing graphical models with neural networks for
    structured representations and fast inference, https://arxiv.org/abs/1603.06277
    """
    rng = np.random.default_rng(seed)
    arm, out, across = rng.integers(arms, size=rows), rng.normal(1, radial, rows), rng.normal(0, tangential, rows)
    angle = 2 * np.pi * arm / arms + rate * np.exp(out)
    return _frame((out + 1j * across) * np.exp(-1j * angle), arm, 0.0, rng)


def rings(rows: int = ROWS, count: int = 3, noise: float = 0.1, seed: int = 0) -> Frame:
    """Concentric circles of radius 1, 2, …, equally likely, with N(0, noise²) on both coordinates.

    Source: the circles of Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), FFJORD: free-form continuous dynamics
    for scalable reversible generative models, https://arxiv.org/abs/1810.01367
    """
    rng = np.random.default_rng(seed)
    ring, angle = rng.integers(count, size=rows), rng.uniform(0, 2 * np.pi, rows)
    return _frame((ring + 1) * np.exp(1j * angle), ring, noise, rng)


def _frame(points: np.ndarray, labels: np.ndarray, noise: float, rng: np.random.Generator) -> Frame:
    """Return complex ``points`` as columns x and y, with noise."""
    data = np.column_stack([points.real, points.imag]) + noise * rng.normal(size=(len(points), 2))
    return Frame(pd.DataFrame(data, columns=["x", "y"]), labels=labels)
