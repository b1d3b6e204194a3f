"""Kinds of data: one function assembles each, in :data:`ASSEMBLERS`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zoo.data import Data, as_rows
from zoo.datasets.frame import Frame, shorten
from zoo.datasets.images import check_answers, check_binarise, check_counts, check_grey, choose
from zoo.datasets.layouts import Sequences, labels, ratings, sequences, series, symbols
from zoo.errors import ZooError

#: The kinds whose rows may be pictures: their columns may be constant (borders are), and they are not rescaled.
PICTURES = ("images", "counts", "labelled_images")
#: The kinds whose numbers mean something as they are, and whose columns may be constant.
FIXED = (*PICTURES, "responses")
#: The kinds with a target, and those of them whose rows are in groups.
TARGETED = ("regression", "binary", "count_regression", "grouped_regression", "grouped_counts", "series",
            "labelled", "labelled_images")
GROUPED = ("grouped_regression", "grouped_counts")
#: The kinds whose columns have names or roles of their own: they are neither rescaled nor dropped.
NAMED = ("effects", "sequences", "symbols", "series", "ratings")


@dataclass(frozen=True)
class Dataset:
    """Data ready for a model: ``x``, and what its columns and rows are called.

    Attributes:
        name: a registered name, or the file's; of binarised images, with the binarisation, which moves results by nats.
        x: a (rows, columns) tensor, or a mapping of tensors.
        columns: names of the columns of the table or of X.
        rows: names of the rows, empty where they have none.
        classes: the names of a target's classes, or the symbols of sequences; empty for other kinds.
        remarks: what was done to the data, one line each.
        shape: the (height, width) of the picture that each row is, empty where rows are no pictures.
        labels: (rows,) whole numbers, the class of each row; for the colours of figures only. ``None`` where there is none.
        view: what a trainer does to each minibatch, afresh (dynamic binarisation); ``None``: nothing.
        latents: (1, units, d), unconstrained: of data drawn from a model, the latents that they were drawn with.
        groups: names of the groups that rows are in, empty for other kinds.
    """

    name: str
    x: Data
    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    labels: Tensor | None = None
    view: Callable[[Tensor], Tensor] | None = None
    latents: Tensor | None = None
    groups: tuple[str, ...] = ()

    @property
    def tensor(self) -> Tensor:
        """``x`` where it is one tensor of rows; a mapping raises a :class:`ZooError`."""
        return as_rows(self.x)


@dataclass(frozen=True)
class Options:
    """The options of a data set besides its kind. See :func:`zoo.dataset`."""

    standardise: bool = False
    drop_constant: bool = False
    binarise: str | None = None
    seed: int = 0
    dtype: torch.dtype = torch.float64

    def check(self, kind: str, label: str) -> None:
        """Raise for an option that data of ``kind`` can't follow."""
        check_binarise(self.binarise, kind, label)
        if self.standardise and kind in FIXED:
            raise ZooError(f"expected {kind} of {label} as they are; got standardise, which changes their range; leave it out")
        if kind in NAMED and (self.standardise or self.drop_constant):
            word = "standardise" if self.standardise else "drop_constant"
            raise ZooError(f"expected {kind} of {label} as they are; got {word}; leave it out")
        if not self.dtype.is_floating_point:
            raise ZooError(f"expected a floating dtype; got {self.dtype}; use torch.float64 or torch.float32")


def assemble(frame: Frame, label: str, kind: str, options: Options) -> Dataset:
    """Return ``frame`` as data of the ``kind``, a key of :data:`zoo.registry.KINDS`."""
    options.check(kind, label)
    made = ASSEMBLERS[kind](frame, label, options)
    return made if frame.labels is None else replace(made, labels=torch.from_numpy(frame.labels.astype(np.int64)))


def _table(frame: Frame, label: str, options: Options) -> Dataset:
    values, columns, remarks = _columns(frame, label, options, grey=bool(frame.shape))
    return Dataset(label, _tensor(values, options), columns, frame.rows, remarks=remarks)


def _regression(frame: Frame, label: str, options: Options) -> Dataset:
    return _with_target(frame, label, options, frame.response(label), ())


def _binary(frame: Frame, label: str, options: Options) -> Dataset:
    return _with_target(frame, label, options, *frame.two_classes(label))


def _with_target(
    frame: Frame, label: str, options: Options, target: np.ndarray, classes: tuple[str, ...]) -> Dataset:
    values, columns, remarks = _columns(frame, label, options)
    x = {"X": _tensor(values, options), "y": _tensor(target, options)}
    return Dataset(label, x, columns, frame.rows, classes, remarks)


def _count_regression(frame: Frame, label: str, options: Options) -> Dataset:
    target = frame.response(label)
    check_counts(target[:, None], (frame.target_name,), label, "choose another target")
    return _with_target(frame, label, options, target, ())


def _in_groups(assembler: Callable[[Frame, str, Options], Dataset]) -> Callable[[Frame, str, Options], Dataset]:
    """Return the assembler with the rows' groups in x besides, as whole numbers from 0."""

    def assembled(frame: Frame, label: str, options: Options) -> Dataset:
        made = assembler(frame, label, options)
        assert frame.group is not None, "grouped() comes first"
        assert isinstance(made.x, Mapping), "regressions alone have groups"
        return replace(made, x={**made.x, "group": torch.from_numpy(frame.group.astype(np.int64))}, groups=frame.groups)

    return assembled


def _effects(frame: Frame, label: str, options: Options) -> Dataset:
    frame = frame.effects(label)
    y, sigma = frame.numbers(label).T
    return Dataset(label, {"y": _tensor(y, options), "sigma": _tensor(sigma, options)}, frame.columns, frame.rows)


def _images(frame: Frame, label: str, options: Options) -> Dataset:
    values, columns, remarks = _columns(frame, label, options, grey=True)
    check_grey(values, columns, label)
    shape = _shape(frame.shape or _square(len(frame.columns)), columns)
    how = choose(options.binarise)
    x = _tensor(how.fix(values, options.seed), options)
    remarks += ((how.remark.format(seed=options.seed),) if how.remark else ())
    return Dataset(label + how.called(options.seed), x, columns, frame.rows, remarks=remarks, shape=shape, view=how.view)


def _counts(frame: Frame, label: str, options: Options) -> Dataset:
    values, columns, remarks = _columns(frame, label, options)
    check_counts(values, columns, label)
    shape = _shape(frame.shape, columns)
    return Dataset(label, _tensor(values, options), columns, frame.rows, remarks=remarks, shape=shape)


def _responses(frame: Frame, label: str, options: Options) -> Dataset:
    values, columns, remarks = _columns(frame, label, options)
    check_answers(values, columns, label)
    return Dataset(label, _tensor(values, options), columns, frame.rows, remarks=remarks)


def _sequences(frame: Frame, label: str, options: Options) -> Dataset:
    return _as_sequences(sequences(frame, label), label, options)


def _symbols(frame: Frame, label: str, options: Options) -> Dataset:
    return _as_sequences(symbols(frame, label), label, options)


def _as_sequences(found: Sequences, label: str, options: Options) -> Dataset:
    x = {"y": _tensor(found.values, options), "length": _tensor(found.length, options)}
    return Dataset(label, x, found.columns, found.names, found.symbols)


def _series(frame: Frame, label: str, options: Options) -> Dataset:
    y, rows = series(frame, label)
    return Dataset(label, {"y": _tensor(y, options)}, (frame.target_name or frame.columns[0],), rows)


def _labelled(frame: Frame, label: str, options: Options) -> Dataset:
    return _with_labels(_table(frame, label, options), frame, options)


def _labelled_images(frame: Frame, label: str, options: Options) -> Dataset:
    return _with_labels(_images(frame, label, options), frame, options)


def _with_labels(made: Dataset, frame: Frame, options: Options) -> Dataset:
    found, classes, remark = labels(frame, made.name, options.seed)
    x = {"x": made.tensor, "label": _tensor(found, options)}
    return replace(made, x=x, classes=classes, remarks=(*made.remarks, *([remark] if remark else [])))


def _ratings(frame: Frame, label: str, options: Options) -> Dataset:
    found = ratings(frame, label)
    x = {"ratings": _tensor(found.values, options), "seen": _tensor(found.seen, options)}
    return Dataset(label, x, found.items, found.users)


ASSEMBLERS: Mapping[str, Callable[[Frame, str, Options], Dataset]] = {
    "table": _table, "regression": _regression, "binary": _binary, "count_regression": _count_regression,
    "grouped_regression": _in_groups(_regression), "grouped_counts": _in_groups(_count_regression), "effects": _effects,
    "images": _images, "counts": _counts, "responses": _responses, "sequences": _sequences, "symbols": _symbols,
    "series": _series, "ratings": _ratings, "labelled": _labelled, "labelled_images": _labelled_images}


def _columns(
    frame: Frame, label: str, options: Options, grey: bool = False,
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """Return the numbers (``grey``: divided by what stands for white), the columns' names, and what was done to them."""
    values, columns, remarks = frame.numbers(label), frame.columns, []
    if grey and frame.white != 1:
        values = values / frame.white
        remarks += [frame.remark] if frame.remark else []
    if options.drop_constant:
        values, columns, gone = _varying(values, columns, label)
        remarks += [f"dropped constant column(s) {shorten(gone)}"] if gone else []
    if options.standardise:
        values = _standardised(values, columns, label)
        remarks.append("columns standardised")
    return values, columns, tuple(remarks)


def _varying(values: np.ndarray, columns: tuple[str, ...], label: str) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """Return the columns that vary, and the names of those that do not."""
    keep = (values != values[:1]).any(0)
    if not keep.any():
        raise ZooError(f"expected a column that varies in {label}; got none; use other data")
    gone = [c for c, varies in zip(columns, keep, strict=True) if not varies]
    return values[:, keep], tuple(c for c, varies in zip(columns, keep, strict=True) if varies), gone


def _standardised(values: np.ndarray, columns: tuple[str, ...], label: str) -> np.ndarray:
    values = values / np.abs(values).max(0).clip(min=np.finfo(float).tiny)  # squares of huge and tiny numbers still fit
    scale = values.std(0)
    constant = [c for c, s in zip(columns, scale, strict=True) if s == 0]
    if constant:
        raise ZooError(f"expected columns that vary in {label}; got constant {shorten(constant)}; use --drop-constant")
    return np.asarray((values - values.mean(0)) / scale)


def _shape(shape: tuple[int, ...], columns: tuple[str, ...]) -> tuple[int, ...]:
    """Return ``shape``, or nothing where columns were dropped: the rows are then no whole pictures."""
    return shape if math.prod(shape) == len(columns) else ()


def _square(columns: int) -> tuple[int, ...]:
    side = math.isqrt(columns)
    return (side, side) if side * side == columns else ()


def _tensor(values: np.ndarray, options: Options) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64, order="C")).to(options.dtype)
