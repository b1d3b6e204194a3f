"""Reading a user's file, by its ending: tables (CSV, Parquet) and arrays (NPY, NPZ, IDX)."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from zoo.datasets.arrays import check_columns, idx_array, npy_array, npz_arrays, opened, read_idx, read_numpy, room
from zoo.datasets.frame import Frame
from zoo.errors import ZooError

T = TypeVar("T")

#: What may stand between the fields of a row, the surest first; commas may be decimal.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas", r"\s+": "spaces"}
#: Lines by which separators are told, and the most characters of a word in a column: words become labels.
LOOKED_AT, LONGEST = 20, 1000


@dataclass(frozen=True)
class Dialect:
    """How a text file writes a table: what separates fields, and what stands for a decimal point."""

    separator: str = ","
    decimal: str = "."

    @classmethod
    def of(cls, lines: Sequence[str]) -> Dialect:
        """Tell the dialect of a table's first lines: the separator by which all have as many fields, two or more.

        >>> Dialect.of(["a;b", "1,5;2"]), Dialect.of(["a,b", "1.5,2"])
        (Dialect(separator=';', decimal=','), Dialect(separator=',', decimal='.'))
        """
        for separator in SEPARATORS:
            rows = [fields(line, separator) for line in lines]
            if len(rows[0]) > 1 and len({len(row) for row in rows[1:]}) <= 1 and (len(rows) == 1 or len(rows[1]) > 1):
                values = [value for row in rows[1:] for value in row]
                commas = separator != "," and any(map(DECIMAL_COMMA.fullmatch, values)) and not any(map(_has_point, values))
                return cls(separator, "," if commas else ".")
        return cls()

    @property
    def how(self) -> dict[str, Any]:
        """The arguments of pandas."""
        return {"sep": self.separator, "decimal": self.decimal, "skipinitialspace": True}


DECIMAL_COMMA = re.compile(r"\s*[-+]?\d+,\d+([eE][-+]?\d+)?\s*")


def fields(line: str, separator: str) -> list[str]:
    """Return the fields of a line; separators within quotes are none."""
    try:
        return _fields([line], separator)
    except csv.Error:  # a field of over 128 KB: no table is separated so
        return [line]


def _fields(lines: Sequence[str], separator: str) -> list[str]:
    """Return the fields of the first of some lines, and of as many as its quotes go over."""
    if separator == r"\s+":
        lines, separator = [re.sub(separator, " ", lines[0].strip())], " "
    return next(csv.reader(lines, delimiter=separator, skipinitialspace=True), [])


def _has_point(value: str) -> bool:
    return "." in value and _is_float(value)


def read_csv(path: Path) -> Frame:
    """Read a CSV file, with a header line or (all names are numbers) without; gzipped, too.

    Fields are separated by commas, semicolons, tabs, bars or spaces, as the first lines tell; where it is not by commas, these
    may be decimal. A first column without a name that counts the rows or labels them is left out, as R and pandas write it.
    """
    with opened(path) as (file, _):
        text = io.TextIOWrapper(file, newline="", encoding="utf-8-sig", errors="replace")
        lines = [line.rstrip("\r\n") for line in itertools.islice(text, LOOKED_AT)]
    for line in lines:
        check_columns(max(line.count(mark) for mark in (";", "\t", "|", ",", " ")), path.name)
    lines = [line for line in lines if line.strip()] or [""]
    dialect = Dialect.of(lines)
    names = [name.strip() for name in _fields(lines, dialect.separator)]
    bare = all(_is_float(name.replace(dialect.decimal, ".")) for name in names)
    with opened(path) as (file, _):
        data = pd.read_csv(file, header=None if bare else 0, index_col=None, **dialect.how)
    if not isinstance(data.index, pd.RangeIndex):
        raise ZooError(f"expected as many fields in each row of {path.name} as its header names; got more; mend the rows")
    if bare:
        names = [f"column_{i}" for i in range(data.shape[1])]
    _refuse_twice(names, path)
    data.columns = [name or f"column_{i}" for i, name in enumerate(names)]
    return Frame(data.iloc[:, 1:] if _labels_rows(names, data) else data)


def read_parquet(path: Path) -> Frame:
    """Read a Parquet file; an index with a name is a column."""
    _check_parquet(path)
    data = pd.read_parquet(path)
    data = data.reset_index() if data.index.name is not None or data.index.nlevels > 1 else data
    data.columns = data.columns.map(str)
    _refuse_twice(list(data.columns), path)
    return Frame(data)


def _check_parquet(path: Path) -> None:
    """Raise for a Parquet file of more columns or numbers than it may have: equal ones take next to no bytes of a file."""
    import pyarrow.parquet as parquet

    about, most = parquet.read_metadata(path), room(path.stat().st_size) // 8
    check_columns(about.num_columns, path.name)
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    count = max(about.num_rows, sum(group.column(i).num_values for group in groups for i in range(group.num_columns)))
    if count > most:
        raise ZooError(
            f"expected at most {most:,} numbers in {path.name}, by the file's size; got {count:,}; check where it comes "
            "from, or convert it to an NPY file")


def _labels_rows(names: list[str], data: pd.DataFrame) -> bool:
    """Return whether the first of several columns has no name, and counts the rows or labels them."""
    if names[0] or len(names) == 1:
        return False
    column, count = data.iloc[:, 0], range(len(data))
    return not pd.api.types.is_numeric_dtype(column) or list(column) in (list(count), [i + 1 for i in count])


def _refuse_twice(names: list[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name and name in seen:
            raise ZooError(f"expected distinct column names in {path.name}; got '{name[:40]}' twice; rename one")
        seen.add(name)


#: By the end of a file's name, lower case; the first that fits.
READERS: dict[str, Callable[[Path], Frame]] = {
    ".csv": read_csv, ".tsv": read_csv, ".csv.gz": read_csv, ".tsv.gz": read_csv, ".npy": read_numpy,
    ".parquet": read_parquet, ".pq": read_parquet, ".npz": read_numpy,
    ".idx": read_idx, "-ubyte": read_idx, ".gz": read_idx}


#: Those of them whose arrays a program can take as they are.
ARRAYS: dict[str, Callable[[Path], np.ndarray | dict[str, np.ndarray]]] = {
    ".npy": npy_array, ".npz": npz_arrays, ".idx": idx_array, "-ubyte": idx_array, ".gz": idx_array}


def ending(name: str) -> str:
    """Return the key of ``READERS`` that the file ``name`` ends in, or an empty string.

    >>> ending("train-images-idx3-ubyte"), ending("faithful")
    ('-ubyte', '')
    """
    return next((end for end in READERS if name.lower().endswith(end)), "")


def read_file(path: Path) -> Frame:
    """Read ``path`` by its ending.

    Raises:
        ZooError: no such file, another ending, or a file that is not what its ending says.
    """
    end = ending(path.name)
    if not end and not path.is_dir():
        raise ZooError(f"expected a file ending in {', '.join(READERS)}; got '{path.name}'; convert it")
    if not end or not path.is_file():
        kind = "a directory" if path.is_dir() else "no such file"
        raise ZooError(f"expected a data file at '{path}'; got {kind}; check the path")
    return _readable(READERS[end], path, end)


def read_arguments(path: Path) -> np.ndarray | dict[str, np.ndarray] | pd.DataFrame:
    """Read ``path`` as a program's arguments: an array as it is, the arrays of an NPZ file by name, or a table.

    Raises:
        ZooError: as of :func:`read_file`, a table without rows, or a word of over a thousand characters.
    """
    end = ending(path.name)
    if end in ARRAYS and path.is_file():
        return _readable(ARRAYS[end], path, end)
    frame = read_file(path).data
    if frame.empty:
        raise ZooError(f"expected rows in {path}; got none; mend it")
    for name, column in frame.items():
        longest = 0 if column.dtype.kind in "biuf" else max((len(word) for word in column if isinstance(word, str)), default=0)
        if longest > LONGEST:
            raise ZooError(
                f"expected words of at most {LONGEST:,} characters in column '{name}' of {path}; got {longest:,}; shorten them")
    return frame


def _readable(reader: Callable[[Path], T], path: Path, end: str) -> T:
    """Return what ``reader`` reads; whatever it raises, it is the file that must change."""
    try:
        return reader(path)
    except ZooError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        raise ZooError(
            f"expected a readable {end[1:]} file; got '{path.name}', which fails with: "
            f"{text[0][:160] if text else type(error).__name__}; mend the file") from error


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
