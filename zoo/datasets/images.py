"""Images, counts and responses: what their numbers must be, and grey values made black and white."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ZooError, nearest
from zoo.registry import GREY_KINDS


@dataclass(frozen=True)
class Binarisation:
    """A way to make grey values 0 or 1.

    Log-likelihoods of one model under two binarisations differ by nats and are no comparison, so each one is named.

    Attributes:
        name: as :func:`zoo.dataset` takes it; empty: the grey values are kept.
        remark: what is done.
        fix: (grey values, seed) → the numbers that x holds.
        view: what is done to each minibatch, afresh; ``None``: nothing.
        drawn: whether ``fix`` draws, so that its seed matters.
    """

    name: str
    remark: str
    fix: Callable[[np.ndarray, int], np.ndarray]
    view: Callable[[Tensor], Tensor] | None = None
    drawn: bool = False

    def called(self, seed: int) -> str:
        """Return the suffix by which a data set's name tells its binarisation.

        >>> BINARISATIONS["static"].called(0), BINARISATIONS["static"].called(3)
        (' (static binarisation)', ' (static binarisation, seed 3)')
        """
        seeded = f", seed {seed}" if self.drawn and seed else ""
        return f" ({self.name} binarisation{seeded})" if self.name else ""


def draw_once(grey: np.ndarray, seed: int) -> np.ndarray:
    """Draw each pixel from Bernoulli(its grey value). NumPy's generator: the same bits on every device and in every dtype.

    >>> draw_once(np.array([0.0, 1.0]), seed=0).tolist()
    [0.0, 1.0]
    """
    return np.asarray(np.random.default_rng(seed).random(grey.shape) < grey, dtype=np.float64)


GREY = Binarisation("", "", lambda grey, seed: grey)

#: By name. Static: Salakhutdinov and Murray (2008), On the quantitative analysis of deep belief networks,
#: https://doi.org/10.1145/1390156.1390266. Dynamic: Burda, Grosse and Salakhutdinov (2016), Importance weighted
#: autoencoders, https://arxiv.org/abs/1509.00519.
BINARISATIONS: Mapping[str, Binarisation] = {
    "static": Binarisation(
        "static", "each pixel drawn once from Bernoulli(grey value), seed {seed}", draw_once, drawn=True),
    "dynamic": Binarisation(
        "dynamic", "each pixel drawn from Bernoulli(grey value) afresh in every minibatch", GREY.fix, torch.bernoulli),
    "threshold": Binarisation(
        "threshold", "1 where the grey value is at least 0.5", lambda grey, seed: np.asarray(grey >= 0.5, dtype=np.float64)),
}


def choose(name: str | None) -> Binarisation:
    """Return the binarisation ``name``; ``None`` keeps the grey values."""
    return GREY if name is None else BINARISATIONS[name]


def check_binarise(name: str | None, kind: str, label: str) -> None:
    """Raise a :class:`ZooError` for a binarisation that there is not, or of data that are no images."""
    if name is None:
        return
    if name not in BINARISATIONS:
        raise ZooError(
            f"expected binarise to be one of {', '.join(BINARISATIONS)}; got '{name}'"
            f"{nearest(name, BINARISATIONS) or '; choose one'}")
    if kind not in GREY_KINDS:
        raise ZooError(f"expected binarise with images only; got binarise='{name}' for {label} as {kind}; leave it out")
    if kind != "images" and BINARISATIONS[name].view is not None:
        raise ZooError(f"expected images alone for binarise='{name}'; got {label} as {kind}; use binarise='static'")


def check_grey(values: np.ndarray, columns: tuple[str, ...], label: str) -> None:
    """Raise a :class:`ZooError` unless all ``values`` lie in [0, 1]."""
    low, high = values.min(), values.max()
    if low >= 0 and high <= 1:
        return
    bytes_ = low >= 0 and high <= 255 and bool((values == np.rint(values)).all())
    where = _place(values, columns, values.argmin() if low < 0 else values.argmax())
    mend = "divide by 255" if bytes_ else "rescale or clip them"
    raise ZooError(f"expected numbers in [0, 1] for images in {label}; got {low:g} to {high:g}, {where}; {mend}")


def check_counts(
    values: np.ndarray, columns: tuple[str, ...], label: str, instead: str = "use them as a table",
) -> None:
    """Raise a :class:`ZooError` unless all ``values`` are whole and none is negative."""
    bad = (values < 0) | (values != np.rint(values))
    if bad.any():
        where = _place(values, columns, bad.argmax())
        mend = f"round them, or {instead}" if values.min() >= 0 else "drop or recode them"
        raise ZooError(f"expected whole numbers from 0 up for counts in {label}; got {where}; {mend}")


def check_answers(values: np.ndarray, columns: tuple[str, ...], label: str) -> None:
    """Raise a :class:`ZooError` unless all ``values`` are 0 or 1."""
    bad = (values != 0) & (values != 1)
    if bad.any():
        where = _place(values, columns, bad.argmax())
        raise ZooError(f"expected 0 or 1 for responses in {label}; got {where}; recode them, or drop the column")


def _place(values: np.ndarray, columns: tuple[str, ...], index: np.intp) -> str:
    row, column = divmod(int(index), values.shape[1])
    return f"{values[row, column]:g} in row {row} (from 0), column '{columns[column]}'"
