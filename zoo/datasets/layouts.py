"""Frames in long form, a row an observation of a group, as the arrays that models of groups take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from zoo.datasets.frame import Frame, is_number, numeric, shorten
from zoo.errors import ZooError


@dataclass(frozen=True)
class Sequences:
    """Sequences side by side, each filled up with zeros to the length of the longest.

    Attributes:
        values: (sequences, steps, columns), or (sequences, steps) of the numbers of symbols.
        length: (sequences,), how many steps each has.
        names: of the sequences.
        columns: of the values; empty for symbols.
        symbols: in words, by number; empty for values.
    """

    values: np.ndarray
    length: np.ndarray
    names: tuple[str, ...]
    columns: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()


def sequences(frame: Frame, label: str) -> Sequences:
    """Return a frame with a column ``sequence`` and numeric columns as sequences: its rows are their steps, in order.

    Raises:
        ZooError: no such column, no other one, a row without a sequence, or values that are no finite numbers.
    """
    group, rest = _grouped(frame, label, "numeric columns")
    columns = tuple(map(str, rest.columns))
    values = np.column_stack([numeric(rest[c], str(c), label) for c in rest.columns])
    return _side_by_side(group, values, label, columns=columns)


def symbols(frame: Frame, label: str) -> Sequences:
    """Return a frame with a column ``sequence`` and one of symbols (words or numbers) as sequences of their numbers.

    Raises:
        ZooError: other columns, a row without a sequence or a symbol, or fewer than two symbols.
    """
    group, rest = _grouped(frame, label, "one column of symbols")
    if rest.shape[1] != 1:
        raise ZooError(
            f"expected one column of symbols beside 'sequence' in {label}; got {shorten(list(map(str, rest.columns)))}; "
            "drop the others")
    codes, names = _coded(rest.iloc[:, 0], label)
    if len(names) < 2:
        raise ZooError(f"expected two symbols or more in column '{rest.columns[0]}' of {label}; got {len(names)}; add data")
    return _side_by_side(group, codes.astype(np.float64), label, symbols=names)


#: Labels of each class that are kept of a data set that has all of them.
KEPT = 10


def labels(frame: Frame, label: str, seed: int) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Return the numbers of the rows' classes, (rows,), −1 where unknown, their names, and a remark where some are hidden.

    A file's target may be empty in some rows, whose class is unknown. Of a data set that knows all classes, the labels of
    :data:`KEPT` rows of each, drawn with ``seed``, are kept; the others are hidden.

    Raises:
        ZooError: no classes at all, or fewer than two.
    """
    if frame.labels is not None:
        kept, rng = np.full(len(frame.labels), -1.0), np.random.default_rng(seed)
        for each in np.unique(frame.labels):
            rows = np.flatnonzero(frame.labels == each)
            kept[rng.choice(rows, min(KEPT, len(rows)), replace=False)] = each
        names = frame.classes or tuple(map(str, np.unique(frame.labels)))
        return kept, names, f"labels of {KEPT} rows of each class kept, seed {seed}; the others are hidden"
    if frame.target is None:
        raise ZooError(f"expected data with classes for {label}; got none; choose data that have them")
    codes, found = pd.factorize(pd.Series(frame.target), sort=True)
    if len(found) < 2:
        raise ZooError(
            f"expected two classes or more in column '{frame.target_name}' of {label}; got {len(found)}; choose another with "
            "--target")
    return np.asarray(codes, dtype=np.float64), tuple(map(str, found)), ""


def series(frame: Frame, label: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a frame's series, (times,), in the order of its rows, and what these are called.

    The series is the target, or the one column there is. Another column may name the rows, with words, or with numbers that are
    evenly spaced times.

    Raises:
        ZooError: more columns, values that are no finite numbers, or times that are not evenly spaced.
    """
    if frame.target is None and len(frame.columns) != 1:
        raise ZooError(f"expected one column as the series in {label}; got {shorten(frame.columns)}; choose it with --target")
    if frame.target is None:
        return numeric(frame.data.iloc[:, 0], frame.columns[0], label), ()
    if len(frame.columns) != 1:
        raise ZooError(
            f"expected at most one column, of times, beside the series '{frame.target_name}' in {label}; got "
            f"{shorten(frame.columns)}; drop the others")
    times = frame.data.iloc[:, 0]
    if is_number(times):
        _refuse_uneven(numeric(times, frame.columns[0], label), frame.columns[0], label)
    return frame.response(label), tuple(map(str, times))


def _refuse_uneven(times: np.ndarray, name: str, label: str) -> None:
    """Raise unless ``times`` go up by equal steps, to a hundredth of a step."""
    steps = np.diff(times)
    bad = np.flatnonzero(~(np.abs(steps - np.median(steps)) <= 0.01 * np.median(steps))) if len(steps) else steps
    if len(bad):
        raise ZooError(
            f"expected evenly spaced times that go up in column '{name}' of {label}; got {times[bad[0]]:g} and then "
            f"{times[bad[0] + 1]:g} in row {bad[0] + 1} (from 0); sort the rows, and fill or drop what is missing")


@dataclass(frozen=True)
class Ratings:
    """Ratings as a matrix.

    Attributes:
        values: (users, items), 0 where there is none.
        seen: (users, items), 1 where there is one, and 0 where not.
        users, items: their names, as they come.
    """

    values: np.ndarray
    seen: np.ndarray
    users: tuple[str, ...]
    items: tuple[str, ...]


def ratings(frame: Frame, label: str) -> Ratings:
    """Return a frame with columns ``user``, ``item`` and ``rating`` as a matrix; other columns, such as times, are left out.

    Raises:
        ZooError: no such column, a row without a user or an item, a rating that is no finite number, or two of one pair.
    """
    missing = [key for key in ("user", "item", "rating") if key not in frame.columns]
    if missing or not len(frame.data):
        raise ZooError(
            f"expected rows with columns user, item and rating in {label}; got {len(frame.data)} rows of "
            f"{shorten(frame.columns)}; name them so")
    (user, users), (item, items) = (_coded(frame.data[key], label, ordered=False) for key in ("user", "item"))
    values = numeric(frame.data["rating"], "rating", label)
    again = np.flatnonzero(pd.Series(user * len(items) + item).duplicated())
    if len(again):
        row = int(again[0])
        raise ZooError(
            f"expected one rating of each user and item in {label}; got a second one of user {users[user[row]]} and item "
            f"{items[item[row]]} in row {row} (from 0); drop one")
    matrix, seen = np.zeros((2, len(users), len(items)))
    matrix[user, item], seen[user, item] = values, 1.0
    return Ratings(matrix, seen, users, items)


def _grouped(frame: Frame, label: str, what: str) -> tuple[pd.Series, pd.DataFrame]:
    """Return the column ``sequence`` of a frame and the others, ``what``."""
    if "sequence" not in frame.columns or len(frame.columns) < 2:
        raise ZooError(
            f"expected a column 'sequence' that names each row's sequence, and {what}, in {label}; got "
            f"{shorten(frame.columns)}; name them so")
    if not len(frame.data):
        raise ZooError(f"expected rows of data in {label}; got none; check the file")
    return frame.data["sequence"], frame.data.drop(columns="sequence")


def _coded(column: pd.Series, label: str, ordered: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a column's values as numbers from 0, in sorted order or as they come, and the values in words."""
    if column.isna().any():
        raise ZooError(
            f"expected a value in every row of column '{column.name}' in {label}; got none in row "
            f"{shorten([str(i) for i in np.flatnonzero(column.isna())])} (from 0); fill or drop them")
    codes, names = pd.factorize(column, sort=ordered)
    return np.asarray(codes), tuple(map(str, names))


def _side_by_side(group: pd.Series, values: np.ndarray, label: str, **named: tuple[str, ...]) -> Sequences:
    codes, names = _coded(group, label, ordered=False)
    length = np.bincount(codes)
    step = group.groupby(codes).cumcount().to_numpy()
    filled = np.zeros((len(names), length.max(), *values.shape[1:]))
    filled[codes, step] = values
    return Sequences(filled, length.astype(np.float64), names, **named)
