"""Data sets by name, from a file, or drawn from a model, as the tensors a model takes."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from zoo.datasets.files import READERS, ending, read_file
from zoo.datasets.frame import Frame, shorten
from zoo.datasets.kinds import FIXED, GROUPED, NAMED, PICTURES, TARGETED, Dataset, Options, assemble
from zoo.datasets.simulated import sample, sample_registered
from zoo.errors import ZooError
from zoo.registry import DATASETS, KINDS, MODELS, load, lookup

__all__ = ["Dataset", "dataset", "sample"]

SAMPLE = "sample:"


def dataset(
    name: str, kind: str | None = None, *, target: str | None = None, standardise: bool = False,
    drop_constant: bool = False, binarise: str | None = None, seed: int = 0, dtype: torch.dtype = torch.float64,
) -> Dataset:
    """Return a registered data set, a file, or data drawn from a model, as the ``kind`` of data a model takes.

    Args:
        name: a key of :data:`zoo.DATASETS`; or a path ending in ``.csv``, ``.npy``, ``.parquet``, ``.npz`` or, as MNIST comes,
            ``-idx3-ubyte``, ``.idx`` or ``.gz``; or ``sample:`` and a key of :data:`zoo.MODELS`, as in ``sample:gmm``: drawn
            from that model with its own options, as it starts on its own data, to which the arguments below then apply. For a
            model in hand there is :func:`sample`.
        kind: a key of ``zoo.registry.KINDS``; by default the first that a registered data set gives, or ``table``.
        target: of a file, the column to predict, or the series; the last one where unsaid.
        standardise: centre the columns (not the target) and divide them by their standard deviations.
        drop_constant: leave constant columns out instead of refusing them.
        binarise: of images. ``static``: each pixel drawn once from Bernoulli(grey value); ``threshold``: whether it is at least
            0.5; ``dynamic``: x stays grey, and :attr:`Dataset.view` draws each minibatch afresh; ``None``: grey.
        seed: of a static binarisation, and of data drawn from a model.
        dtype: of x.

    Raises:
        ZooError: unknown name, missing or unreadable file, non-numeric column, NaN or inf (rows and columns are named),
            empty data, values outside the kind's range, a kind the data cannot serve as, a package that is not installed.

    >>> dataset("faithful").x.shape
    torch.Size([272, 2])
    >>> sorted(dataset("diabetes", "regression").x)
    ['X', 'y']
    >>> dataset("digits", "images", binarise="static").name
    'digits (static binarisation)'
    """
    options = Options(standardise, drop_constant, binarise, seed, dtype)
    is_path = not name.startswith(SAMPLE) and bool(ending(name) or "/" in name)
    if target is not None and not is_path:
        raise ZooError(f"expected --target with a file only; got '{target}' for '{name}', which has its own; leave it out")
    if kind is not None:
        lookup(KINDS, kind, "kind of data")
    if name.startswith(SAMPLE):
        return _from_model(name, kind, options)
    return _from_file(Path(name), kind or "table", target, options) if is_path else _registered(name, kind, options)


def _registered(name: str, kind: str | None, options: Options) -> Dataset:
    entry = lookup(DATASETS, name, f"data set (and no {', '.join(READERS)} file)")
    kind = _served(name, kind, entry.gives)
    if entry.needs and find_spec(entry.needs) is None:
        raise ZooError(f"expected {entry.needs} for data set '{name}'; got none installed; pip install 'latent-zoo[data]'")
    return assemble(load(entry.path)(), name, kind, options)


def _from_model(name: str, kind: str | None, options: Options) -> Dataset:
    """Draw from a registered model, built on the data it is shown on, prepared as it expects them."""
    model = name.removeprefix(SAMPLE)
    entry = lookup(MODELS, model, "model to draw data from:")
    kind = _served(name, kind, (entry.takes,))
    base = _registered(entry.data, kind, replace(options, standardise=options.standardise or entry.standardises({})))
    return sample_registered(model, base, options.seed)


def _served(name: str, kind: str | None, gives: tuple[str, ...]) -> str:
    if kind is not None and kind not in gives:
        raise ZooError(
            f"expected data that gives {kind} ({KINDS[kind]}); got '{name}', which gives {', '.join(gives)}; "
            "'zoo list' shows what fits")
    return kind or gives[0]


def _from_file(path: Path, kind: str, target: str | None, options: Options) -> Dataset:
    frame = _with_target(read_file(path), kind, target, path.name)
    _refuse_stack(frame, kind, path.name)
    if kind not in (*NAMED, *FIXED) and not options.drop_constant:
        _refuse_constant(frame, path.name)
    return assemble(frame, path.name, kind, options)


def _with_target(frame: Frame, kind: str, target: str | None, label: str) -> Frame:
    """Split the columns of groups and of the target off a file's frame, where the kind has them."""
    if kind not in TARGETED:
        if target is not None:
            raise ZooError(f"expected no target for a model of {kind} data; got --target {target}; leave it out")
        return frame
    if kind in GROUPED:
        frame = frame.grouped(label)
    if kind == "series" and len(frame.columns) == 1 and target in (None, *frame.columns):
        return frame
    return frame.split(frame.columns[-1] if target is None else target, label)


def _refuse_stack(frame: Frame, kind: str, label: str) -> None:
    """Raise for an array of three dimensions that is not known to be pictures: its columns could be anything."""
    pictures = kind in PICTURES or (kind == "table" and bool((frame.data.dtypes == np.uint8).all()))
    if frame.shape and not pictures:
        raise ZooError(
            f"expected a numeric array of shape (rows, columns) in {label}; got {frame.data.dtypes.iloc[0]} of shape "
            f"{(len(frame.data), *frame.shape)}; reshape it")


def _refuse_constant(frame: Frame, label: str) -> None:
    """Raise for a constant column of a file: it tells nothing, and most densities are infinite on it."""
    constant = frame.constant() if len(frame.data) > 1 else []
    if constant:
        raise ZooError(
            f"expected columns that vary in {label}; got constant column(s) {shorten(constant)}; "
            "drop them (--drop-constant on the command line)")
