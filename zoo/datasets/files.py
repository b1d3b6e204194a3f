"""Reading a user's file: CSV, NPY or Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from zoo.datasets.frame import Frame
from zoo.errors import ZooError


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file, with a header line or (all names are numbers) without.

    A first column without a name that counts the rows or labels them is left out, as R and pandas write it.
    """
    first = pd.read_csv(path, skipinitialspace=True, header=None, nrows=1, dtype=str).iloc[0]
    names = ["" if pd.isna(name) else str(name).strip() for name in first]
    bare = all(_is_float(name) for name in names)
    data = pd.read_csv(path, skipinitialspace=True, header=None if bare else 0, index_col=None)
    if not isinstance(data.index, pd.RangeIndex):
        raise ZooError(f"expected as many fields in each row of {path.name} as its header names; got more; mend the rows")
    if bare:
        names = [f"column_{i}" for i in range(data.shape[1])]
    _refuse_twice(names, path)
    data.columns = [name or f"column_{i}" for i, name in enumerate(names)]
    return data.iloc[:, 1:] if not names[0] and len(names) > 1 and _labels_rows(data.iloc[:, 0]) else data


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file; an index with a name is a column."""
    data = pd.read_parquet(path)
    return data.reset_index() if data.index.name is not None or data.index.nlevels > 1 else data


def _labels_rows(column: pd.Series) -> bool:
    count = range(len(column))
    return not pd.api.types.is_numeric_dtype(column) or list(column) in (list(count), [i + 1 for i in count])


def _refuse_twice(names: list[str], path: Path) -> None:
    twice = [name for i, name in enumerate(names) if name and name in names[:i]]
    if twice:
        raise ZooError(f"expected distinct column names in {path.name}; got '{twice[0]}' twice; rename one")


def read_npy(path: Path) -> pd.DataFrame:
    """Read a NumPy array of one or two dimensions; its columns are called ``column_0`` and so on."""
    values = np.load(path, allow_pickle=False)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.dtype.kind not in "biufc":
        raise ZooError(
            f"expected a numeric array of shape (rows, columns) in {path.name}; got {values.dtype} of shape "
            f"{values.shape}; reshape it")
    return pd.DataFrame(values, columns=[f"column_{i}" for i in range(values.shape[1])])


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": read_csv, ".npy": read_npy, ".parquet": read_parquet, ".pq": read_parquet}


def read_file(path: Path) -> Frame:
    """Read ``path`` by its ending.

    Raises:
        ZooError: no such file, another ending, or a file that is not what its ending says.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None and not path.is_dir():
        raise ZooError(f"expected a file ending in {', '.join(READERS)}; got '{path.name}'; convert it")
    if reader is None or not path.is_file():
        kind = "a directory" if path.is_dir() else "no such file"
        raise ZooError(f"expected a data file at '{path}'; got {kind}; check the path")
    try:
        data = reader(path)
    except ZooError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        raise ZooError(
            f"expected a readable {path.suffix[1:]} file; got '{path.name}', which fails with: "
            f"{text[0][:160] if text else type(error).__name__}; mend the file") from error
    data.columns = data.columns.map(str)
    _refuse_twice(list(data.columns), path)
    return Frame(data)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
