"""The data sets that scikit-learn ships.

Source of all: the UCI repository (https://archive.ics.uci.edu) and, for diabetes, Efron, Hastie, Johnstone and
Tibshirani (2004), Least angle regression, https://doi.org/10.1214/009053604000000067, as in ``sklearn.datasets``.
"""

from __future__ import annotations

from dataclasses import replace
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
    """8 × 8 images with 17 grey values: 0 to 16 as counts, divided by 16 as images and as a table."""
    return replace(_frame(datasets.load_digits()), shape=(8, 8), white=16.0)


def breast_cancer() -> Frame:
    """Target 1 is benign, as scikit-learn codes it."""
    return _frame(datasets.load_breast_cancer())


def diabetes() -> Frame:
    """Covariates in their own units (``scaled=False``), so that ``standardise`` says what it does."""
    return _frame(datasets.load_diabetes(scaled=False))


def linnerud() -> Frame:
    """Chin-ups, sit-ups and jumps that 20 men did, a row a man and an exercise; weight in pounds, waist in inches.

    Rows are grouped by man. Source: ``load_linnerud`` of scikit-learn, where Tenenhaus (1998), La régression PLS, is cited.
    """
    bunch = datasets.load_linnerud(as_frame=True)
    parts = [
        bunch.target.rename(columns=str.lower).assign(
            situps=float(exercise == "Situps"), jumps=float(exercise == "Jumps"), man=1 + bunch.data.index,
            count=bunch.data[exercise])
        for exercise in bunch.data.columns]
    return Frame(pd.concat(parts, ignore_index=True)).grouped("linnerud", "man").split("count", "linnerud")


def _frame(bunch: Any) -> Frame:
    columns = [str(name).replace(" ", "_").replace("_(cm)", "_cm") for name in bunch.feature_names]
    classes = tuple(map(str, bunch.target_names)) if hasattr(bunch, "target_names") else ()
    return Frame(
        pd.DataFrame(bunch.data, columns=columns), target=bunch.target.astype(float), target_name="target", classes=classes,
        labels=bunch.target if classes else None)
