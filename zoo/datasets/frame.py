"""A table with named columns, and the checks that turn it into numbers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from zoo.errors import ZooError, nearest


@dataclass(frozen=True)
class Frame:
    """Columns by name, with a target split off or not.

    Attributes:
        data: the columns.
        target, target_name: what is predicted, and its name.
        rows: names of the rows.
        classes: names of the target's classes.
        labels: (rows,) whole numbers, the class of each row, for the colours of figures.
        group: (rows,) whole numbers, the group of each row; ``None`` where rows are in none.
        groups: names of the groups.
        shape: (height, width) of the picture that each row is; empty where rows are no pictures.
        white: the number that stands for white: values of images, and of pictures that serve as a table, are divided by it.
        remark: a line that a command prints when it loads the data.
    """

    data: pd.DataFrame
    target: np.ndarray | None = None
    target_name: str = ""
    rows: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    group: np.ndarray | None = None
    groups: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    white: float = 1.0
    remark: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(map(str, self.data.columns))

    def split(self, target: str, label: str) -> Frame:
        """Return the frame with the column ``target`` split off."""
        if target not in self.columns:
            raise ZooError(
                f"expected a target column of {label}; got '{target}'{nearest(target, self.columns) or ';'} "
                f"its columns are {shorten(self.columns)}")
        if len(self.columns) < 2:
            raise ZooError(f"expected a target and at least one other column in {label}; got one column; add covariates")
        return replace(self, data=self.data.drop(columns=target), target=self.data[target], target_name=target)

    def grouped(self, label: str, column: str | None = None) -> Frame:
        """Return the frame with its groups split off: ``column``, else the one named ``group``, else the only one of words.

        Raises:
            ZooError: no such column or several, or a row without a group.
        """
        if column is None:
            words = [c for c in self.columns if not is_number(self.data[c])]
            named = ["group"] if "group" in self.columns else words
            if len(named) != 1:
                got = f"{len(words)} columns of words" if words else "numbers alone"
                raise ZooError(
                    f"expected a column named group, or one column of words, in {label}; got {got} "
                    f"({shorten(words or self.columns)}); name the column of groups 'group'")
            column = named[0]
        cells = self.data[column]
        if cells.isna().any():
            rows = shorten([str(i) for i in np.flatnonzero(cells.isna())])
            raise ZooError(
                f"expected a group in every row of column '{column}' in {label}; got none in row(s) {rows} (from 0); "
                "fill or drop them")
        codes, values = pd.factorize(cells if is_number(cells) else cells.astype(str), sort=True)
        return replace(self, data=self.data.drop(columns=column), group=codes, groups=tuple(map(str, values)))

    def effects(self, label: str) -> Frame:
        """Return the columns y and sigma; the first text column names the rows."""
        missing = [key for key in ("y", "sigma") if key not in self.columns]
        if missing:
            raise ZooError(f"expected columns y and sigma in {label}; got {shorten(self.columns)}; name them so")
        text = [c for c in self.data.columns if not is_number(self.data[c])]
        rows = tuple(map(str, self.data[text[0]])) if text else ()
        return replace(self, data=self.data[["y", "sigma"]], rows=rows)

    def numbers(self, label: str) -> np.ndarray:
        """Return the columns as float64, (rows, columns).

        Raises:
            ZooError: no rows, a column that is not numeric, NaN or infinite values.
        """
        if self.data.shape[0] == 0 or self.data.shape[1] == 0:
            raise ZooError(f"expected rows of data in {label}; got none; check the file")
        if self._plain:
            values: np.ndarray = self.data.to_numpy(dtype=np.float64)
            if np.isfinite(values).all():
                return values
        # Column by column only where something is to be converted, or to be complained of: there may be many.
        return np.column_stack([numeric(self.data[c], str(c), label) for c in self.data.columns])

    @property
    def _plain(self) -> bool:
        """Whether all columns are of NumPy's own numbers, so that they can be looked at all together."""
        return all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in self.data.dtypes)

    def constant(self) -> list[str]:
        """Return the columns of numbers that have the same in every row, or none in any."""
        if self._plain:  # one by one takes a second for every ten thousand columns
            values = self.data.to_numpy()
            same = ((values == values[:1]) | ((values != values) & (values[:1] != values[:1]))).all(0)
            return [c for c, constant in zip(self.columns, same, strict=True) if constant]
        return [c for c in self.columns if is_number(self.data[c]) and self.data[c].nunique(dropna=False) == 1]

    def response(self, label: str) -> np.ndarray:
        """Return the numeric target, (rows,)."""
        assert self.target is not None, "split() comes first"
        return numeric(pd.Series(self.target), self.target_name, label)

    def two_classes(self, label: str) -> tuple[np.ndarray, tuple[str, str]]:
        """Return the target as 0 and 1, in sorted order of its two values, and their names."""
        assert self.target is not None, "split() comes first"
        target = pd.Series(self.target)
        if target.isna().any():
            rows = shorten([str(i) for i in np.flatnonzero(target.isna())])
            raise ZooError(
                f"expected a class in every row of column '{self.target_name}' in {label}; got none in row {rows}; drop them")
        codes, values = pd.factorize(target, sort=True)
        if len(values) != 2:
            raise ZooError(
                f"expected two classes in column '{self.target_name}' of {label}; got {len(values)}; "
                "choose another with --target")
        names = self.classes or tuple(map(str, values))
        return np.asarray(codes, dtype=np.float64), (names[0], names[1])


def is_number(column: pd.Series) -> bool:
    """Return whether a column holds numbers or truth values."""
    return bool(pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column))


def numeric(column: pd.Series, name: str, label: str) -> np.ndarray:
    """Return one column as float64, or say which of its rows can't be."""
    if pd.api.types.is_complex_dtype(column):
        raise ZooError(f"expected real numbers in column '{name}' of {label}; got complex ones; take a part")
    if column.dtype.kind in "mM":
        raise ZooError(f"expected numbers in column '{name}' of {label}; got dates or durations; convert the column")
    try:
        values = pd.to_numeric(column, errors="coerce") if not is_number(column) else column
    except TypeError as error:
        got = type(column.iloc[0]).__name__
        raise ZooError(f"expected numbers in column '{name}' of {label}; got {got}; drop the column") from error
    array: np.ndarray = values.to_numpy(dtype=np.float64, na_value=np.nan)
    text = np.isnan(array) & ~column.isna().to_numpy()
    if not is_number(column) and text.any():
        row = int(np.flatnonzero(text)[0])
        raise ZooError(
            f"expected numbers in column '{name}' of {label}; got '{str(column.iloc[row])[:40]}' in row {row} (from 0); "
            "drop or recode the column")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ZooError(
            f"expected finite numbers in {label}; got NaN or infinity in column '{name}', row(s) "
            f"{shorten([str(i) for i in bad])} (from 0); drop or fill them")
    return array


def pixels(shape: tuple[int, ...]) -> list[str]:
    """Name the pixels of a picture, row by row, as scikit-learn names them.

    >>> pixels((2, 2))
    ['pixel_0_0', 'pixel_0_1', 'pixel_1_0', 'pixel_1_1']
    """
    return ["pixel_" + "_".join(map(str, place)) for place in itertools.product(*map(range, shape))]


def shorten(names: tuple[str, ...] | list[str], most: int = 8) -> str:
    """Join names with commas, at most ``most`` of them.

    >>> shorten(["a", "b", "c"], most=2)
    'a, b … (3 in all)'
    """
    return ", ".join(names[:most]) + (f" … ({len(names)} in all)" if len(names) > most else "")
