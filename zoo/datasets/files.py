"""Reading a user's file, by its ending: tables (CSV, Parquet) and arrays (NPY, NPZ, IDX)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from zoo.datasets.arrays import read_idx, read_numpy
from zoo.datasets.frame import Frame
from zoo.errors import ZooError


def read_csv(path: Path) -> Frame:
    """Read a CSV file, with a header line or (all names are numbers) without.

    A first column without a name that counts the rows or labels them is left out, as R and pandas write it.
    """
    names = _first_line(path)
    bare = all(_is_float(name) for name in names)
    data = pd.read_csv(path, skipinitialspace=True, header=None if bare else 0, index_col=None)
    if not isinstance(data.index, pd.RangeIndex):
        raise ZooError(f"expected as many fields in each row of {path.name} as its header names; got more; mend the rows")
    if bare:
        names = [f"column_{i}" for i in range(data.shape[1])]
    _refuse_twice(names, path)
    data.columns = [name or f"column_{i}" for i, name in enumerate(names)]
    return Frame(data.iloc[:, 1:] if _labels_rows(names, data) else data)


def _first_line(path: Path) -> list[str]:
    """Return the fields of a CSV file's first line, stripped; an empty one is an empty text."""
    first = pd.read_csv(path, skipinitialspace=True, header=None, nrows=1, dtype=str).iloc[0]
    return ["" if pd.isna(name) else str(name).strip() for name in first]


def read_parquet(path: Path) -> Frame:
    """Read a Parquet file; an index with a name is a column."""
    data = pd.read_parquet(path)
    data = data.reset_index() if data.index.name is not None or data.index.nlevels > 1 else data
    data.columns = data.columns.map(str)
    _refuse_twice(list(data.columns), path)
    return Frame(data)


def _labels_rows(names: list[str], data: pd.DataFrame) -> bool:
    """Return whether the first of several columns has no name, and counts the rows or labels them."""
    if names[0] or len(names) == 1:
        return False
    column, count = data.iloc[:, 0], range(len(data))
    return not pd.api.types.is_numeric_dtype(column) or list(column) in (list(count), [i + 1 for i in count])


def _refuse_twice(names: list[str], path: Path) -> None:
    twice = [name for i, name in enumerate(names) if name and name in names[:i]]
    if twice:
        raise ZooError(f"expected distinct column names in {path.name}; got '{twice[0]}' twice; rename one")


#: By the end of a file's name, lower case; the first that fits.
READERS: dict[str, Callable[[Path], Frame]] = {
    ".csv": read_csv, ".npy": read_numpy, ".parquet": read_parquet, ".pq": read_parquet, ".npz": read_numpy,
    ".idx": read_idx, "-ubyte": read_idx, ".gz": read_idx}


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
    try:
        return READERS[end](path)
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
