"""Arrays in files: NumPy's NPY and NPZ, and the IDX that MNIST comes in."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pandas as pd

from zoo.datasets.frame import Frame, pixels, shorten
from zoo.errors import ZooError

#: The NPZ entries that hold the data, the first that is there, and the entries with the classes of their rows.
ENTRIES = {"x_train": "y_train", "images": "labels", "x": "y", "data": "target"}

#: The third byte of an IDX file, and the numbers that it stands for.
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_numpy(path: Path) -> Frame:
    """Read a NumPy array of one dimension (one column), two (rows, columns), or three or four (pictures).

    Of several arrays in an NPZ file, the one called ``x_train`` (as Keras stores MNIST), ``images``, ``x`` or ``data``.

    Raises:
        ZooError: an array that is not numeric or of more dimensions, or an NPZ file of several arrays with other names.
    """
    with path.open("rb") as file:  # np.load, given the path, leaves a broken archive open
        loaded = np.load(file, allow_pickle=False)
        values, labels = (loaded, None) if isinstance(loaded, np.ndarray) else _entries(loaded, path)
    return array_frame(values[:, None] if values.ndim == 1 else values, path, labels)


def _entries(loaded: np.lib.npyio.NpzFile, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the data and the classes in an NPZ file."""
    key = _entry(list(loaded), path)
    return loaded[key], loaded[ENTRIES[key]] if ENTRIES.get(key) in loaded else None


def _entry(keys: list[str], path: Path) -> str:
    named = [key for key in ENTRIES if key in keys]
    if not named and len(keys) != 1:
        raise ZooError(
            f"expected one array, or one called {' or '.join(ENTRIES)}, in {path.name}; got {shorten(keys) or 'none'}; "
            "name it so")
    return (named or keys)[0]


def read_idx(path: Path) -> Frame:
    """Read an IDX file of pictures (rows, height, width) or a table, gzipped or not.

    Classes come from the file beside it, where there is one: ``train-labels-idx1-ubyte`` with ``train-images-idx3-ubyte``.

    Source: the format's description at http://yann.lecun.com/exdb/mnist/

    Raises:
        ZooError: another format, fewer or more bytes than its header says, or one dimension only, as labels have.
    """
    values = idx_array(path)
    if values.ndim == 1:
        raise ZooError(
            f"expected pictures (rows, height, width) in {path.name}; got one number a row, as labels are; "
            "pass the file of images")
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    return array_frame(values, path, idx_array(beside) if beside != path and beside.is_file() else None)


def idx_array(path: Path) -> np.ndarray:
    """Return the array in an IDX file: two zero bytes, type, number of dimensions, the dimensions, the numbers."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    start = 4 + 4 * content[3] if len(content) > 3 else 4
    if content[:2] != b"\0\0" or len(content) < start or content[2] not in IDX_TYPES or content[3] == 0:
        raise ZooError(f"expected an IDX file in {path.name}; got one that starts with {content[:4]!r}; check the file")
    shape = tuple(int(n) for n in np.frombuffer(content[4:start], ">u4"))
    kind = np.dtype(IDX_TYPES[content[2]])
    expected = math.prod(shape) * kind.itemsize
    if len(content) - start != expected:
        raise ZooError(
            f"expected {expected} bytes of numbers in {path.name}, as its header says; got {len(content) - start}; "
            "fetch the file again")
    return np.frombuffer(content, kind, offset=start).reshape(shape)


def array_frame(values: np.ndarray, path: Path, labels: np.ndarray | None = None) -> Frame:
    """Return an array (rows, columns), or of pictures (rows, height, width), perhaps with channels, as a frame. Bytes are grey
    values: 255 is white.

    Bytes of 0 and 1 alone are black and white already. Labels that are not a whole number for each row are left out.
    """
    if values.ndim not in (2, 3, 4) or values.dtype.kind not in "biufc":
        raise ZooError(
            "expected a numeric array of shape (rows, columns), or of pictures (rows, height, width[, channels]), in "
            f"{path.name}; got {values.dtype} of shape {values.shape}; reshape it")
    shape = values.shape[1:] if values.ndim > 2 else ()
    names = pixels(shape) if shape else [f"column_{i}" for i in range(values.shape[1])]
    flat = values.reshape(len(values), len(names)).astype(values.dtype.newbyteorder("="), copy=False)
    white = 255.0 if values.dtype == np.uint8 and values.max(initial=0) > 1 else 1.0
    kept = labels if labels is not None and _are_classes(labels, len(values)) else None
    return Frame(
        pd.DataFrame(flat, columns=names), labels=kept, shape=shape, white=white, remark="grey values divided by 255")


def _are_classes(labels: np.ndarray, rows: int) -> bool:
    """Return whether labels are a whole number for each row."""
    return labels.shape == (rows,) and labels.dtype.kind in "iu"
