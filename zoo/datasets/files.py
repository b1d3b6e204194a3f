"""Reading a user's file: CSV, NPY or Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from zoo.datasets.frame import Frame
from zoo.errors import ZooError


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file, with a header line or (all names are numbers) without."""
    data = pd.read_csv(path, skipinitialspace=True)
    if all(_is_float(str(name)) for name in data.columns):
        data = pd.read_csv(path, skipinitialspace=True, header=None)
        data.columns = [f"column_{i}" for i in range(data.shape[1])]
    if str(data.columns[0]).startswith("Unnamed: 0") and data.shape[1] > 1:
        data = data.drop(columns=data.columns[0])  # row names, as R and pandas write them
    return data


def read_npy(path: Path) -> pd.DataFrame:
    values = np.load(path, allow_pickle=False)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or values.dtype.kind not in "biufc":
        raise ZooError(
            f"expected a numeric array of shape (rows, columns) in {path.name}; got {values.dtype} of shape "
            f"{values.shape}; reshape it")
    return pd.DataFrame(values, columns=[f"column_{i}" for i in range(values.shape[1])])


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": read_csv, ".npy": read_npy, ".parquet": pd.read_parquet, ".pq": pd.read_parquet}


def read_file(path: Path) -> Frame:
    """Read ``path`` by its ending.

    Raises:
        ZooError: no such file, another ending, or a file that is not what its ending says.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ZooError(f"expected a file ending in {', '.join(READERS)}; got '{path.name}'; convert it")
    if not path.is_file():
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
    if data.columns.duplicated().any():
        twice = data.columns[data.columns.duplicated()][0]
        raise ZooError(f"expected distinct column names in {path.name}; got '{twice}' twice; rename one")
    data.columns = data.columns.map(str)
    return Frame(data)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
