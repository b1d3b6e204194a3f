"""The data sets that scikit-learn ships.

Source of all: the UCI repository (https://archive.ics.uci.edu) and, for diabetes, Efron, Hastie, Johnstone and
Tibshirani (2004), Least angle regression, https://doi.org/10.1214/009053604000000067, as in ``sklearn.datasets``.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from sklearn import datasets

from zoo.datasets.frame import Frame


def iris() -> Frame:
    """Lengths and widths of sepals and petals, in cm."""
    return _frame(datasets.load_iris())


def wine() -> Frame:
    """Chemical analyses of wines of three growers."""
    return _frame(datasets.load_wine())


def digits() -> Frame:
    """8 × 8 images, grey values divided by 16 so that they lie in [0, 1]."""
    return _frame(datasets.load_digits(), scale=16.0)


def breast_cancer() -> Frame:
    """Target 1 is benign, as scikit-learn codes it."""
    return _frame(datasets.load_breast_cancer())


def diabetes() -> Frame:
    """Covariates in their own units (``scaled=False``), so that ``standardise`` says what it does."""
    return _frame(datasets.load_diabetes(scaled=False))


def _frame(bunch: Any, scale: float = 1.0) -> Frame:
    columns = [str(name).replace(" ", "_").replace("_(cm)", "_cm") for name in bunch.feature_names]
    data = pd.DataFrame(bunch.data / scale, columns=columns)
    classes = tuple(map(str, bunch.target_names)) if hasattr(bunch, "target_names") else ()
    return Frame(data, target=bunch.target.astype(float), target_name="target", classes=classes)
