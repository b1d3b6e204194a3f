"""Data sets by name or from a file, as the tensors a model takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from zoo.data import Data
from zoo.datasets.files import read_file
from zoo.datasets.frame import Frame, is_number, shorten
from zoo.errors import ZooError
from zoo.registry import DATASETS, KINDS, load, lookup


@dataclass(frozen=True)
class Dataset:
    """Data ready for a model: ``x``, and what its columns and rows are called.

    Attributes:
        name: a registered name, or the file's.
        x: a (rows, columns) tensor, or a mapping of tensors; float64.
        columns: names of the columns of the table or of X.
        rows: names of the rows, empty where they have none.
        classes: the two names of a binary target, empty for other kinds.
        remarks: what was done to the data, one line each.
    """

    name: str
    x: Data
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())


def dataset(
    name: str, kind: str | None = None, *, target: str | None = None, standardise: bool = False,
    drop_constant: bool = False,
) -> Dataset:
    """Return a registered data set, or read a CSV, NPY or Parquet file, as the ``kind`` of data a model takes.

    Args:
        name: a key of :data:`zoo.DATASETS`, or a path ending in ``.csv``, ``.npy`` or ``.parquet``.
        kind: a key of ``zoo.registry.KINDS``; by default the first that a registered data set gives, or ``table``.
        target: of a file, the column to predict; the last one where unsaid.
        standardise: centre the columns (not the target) and divide them by their standard deviations.
        drop_constant: leave constant columns out instead of refusing them.

    Raises:
        ZooError: unknown name, missing or unreadable file, non-numeric column, NaN or inf (rows and columns are named),
            empty data, a kind the data cannot serve as.

    >>> dataset("faithful").x.shape
    torch.Size([272, 2])
    >>> sorted(dataset("diabetes", "regression").x)
    ['X', 'y']
    """
    path = Path(name)
    if path.suffix.lower() in (".csv", ".npy", ".parquet", ".pq") or "/" in name:
        frame, label = read_file(path), path.name
        kind = kind or "table"
        frame = _with_target(frame, kind, target, label)
        _refuse_constant(frame, kind, label, drop_constant)
    else:
        entry = lookup(DATASETS, name, "data set (and no .csv, .npy or .parquet file)")
        kind = kind or entry.gives[0]
        if kind not in entry.gives:
            raise ZooError(
                f"expected data that gives {kind} ({KINDS[kind]}); got '{name}', which gives {', '.join(entry.gives)}; "
                "'zoo list' shows what fits")
        if target is not None:
            raise ZooError(f"expected --target with a file only; got '{target}' for '{name}', which has its own; leave it out")
        frame, label = load(entry.path)(), name
    return _assemble(frame, label, kind, standardise, drop_constant)


def _with_target(frame: Frame, kind: str, target: str | None, label: str) -> Frame:
    """Split the target column off a file's frame, where the kind has one."""
    if kind not in ("regression", "binary"):
        if target is not None:
            raise ZooError(f"expected no target for a model of {kind} data; got --target {target}; leave it out")
        return frame
    return frame.split(frame.columns[-1] if target is None else target, label)


def _assemble(frame: Frame, label: str, kind: str, standardise: bool, drop_constant: bool) -> Dataset:
    if kind == "effects":
        frame = frame.effects(label)
        y, sigma = frame.numbers(label).T
        return Dataset(label, {"y": _tensor(y), "sigma": _tensor(sigma)}, frame.columns, frame.rows)
    values, columns, remarks = frame.numbers(label), frame.columns, []
    if drop_constant:
        values, columns, gone = _varying(values, columns, label)
        remarks += [f"dropped constant column(s) {shorten(gone)}"] if gone else []
    if standardise:
        values = _standardised(values, columns, label)
        remarks.append("columns standardised")
    table = _tensor(values)
    if kind == "table":
        return Dataset(label, table, columns, frame.rows, (), tuple(remarks))
    target, classes = frame.two_classes(label) if kind == "binary" else (frame.response(label), ())
    return Dataset(label, {"X": table, "y": _tensor(target)}, columns, frame.rows, classes, tuple(remarks))


def _varying(values: np.ndarray, columns: tuple[str, ...], label: str) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Return the columns that vary, and the names of those that do not."""
    keep = (values != values[:1]).any(0)
    if not keep.any():
        raise ZooError(f"expected a column that varies in {label}; got none; use other data")
    gone = [c for c, varies in zip(columns, keep, strict=True) if not varies]
    return values[:, keep], tuple(c for c in columns if c not in gone), gone


def _refuse_constant(frame: Frame, kind: str, label: str, drop_constant: bool) -> None:
    """Raise for a constant column of a file: it tells nothing, and most densities are infinite on it."""
    if kind == "effects" or drop_constant:
        return
    constant = [c for c in frame.columns if is_number(frame.data[c]) and frame.data[c].nunique(dropna=False) == 1]
    if constant and len(frame.data) > 1:
        raise ZooError(
            f"expected columns that vary in {label}; got constant column(s) {shorten(constant)}; "
            "drop them (--drop-constant on the command line)")


def _standardised(values: np.ndarray, columns: tuple[str, ...], label: str) -> np.ndarray:
    values = values / np.abs(values).max(0).clip(min=np.finfo(float).tiny)  # squares of huge and tiny numbers still fit
    scale = values.std(0)
    constant = [c for c, s in zip(columns, scale, strict=True) if s == 0]
    if constant:
        raise ZooError(f"expected columns that vary in {label}; got constant {shorten(constant)}; use --drop-constant")
    return np.asarray((values - values.mean(0)) / scale)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64, order="C"))
