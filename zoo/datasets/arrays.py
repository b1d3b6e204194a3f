"""Arrays in files: NumPy's NPY and NPZ, and the IDX that MNIST comes in. And how much a file may ask for.

A header of a few bytes can declare any shape, and a packed file can unpack to a thousand times its size. So no memory is taken
for numbers that a file can't hold, and none for those that it holds a hundred times over.
"""

from __future__ import annotations

import gzip
import io
import math
import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from zoo.datasets.frame import Frame, pixels, shorten
from zoo.errors import ZooError

#: Columns of a table, at most: pictures of 512 × 512 pixels have as many.
COLUMNS = 2**18
#: Axes of an array, at most.
AXES = 16
#: Bytes that any packed file may unpack to, and the bytes more for each one that it has.
UNPACKED, FOR_EACH = 2**24, 100
#: Bytes that are read at a time.
AT_A_TIME = 2**20

#: The NPZ entries that hold the data, the first that is there, and the entries with the classes of their rows.
ENTRIES = {"x_train": "y_train", "images": "labels", "x": "y", "data": "target"}

#: The third byte of an IDX file, and the numbers that it stands for.
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def room(packed: int) -> int:
    """Return how many bytes a packed file of ``packed`` bytes may unpack to.

    >>> room(10**6)
    116777216
    """
    return UNPACKED + FOR_EACH * packed


def check_columns(count: int, name: str) -> None:
    """Raise a :class:`ZooError` where a table has more than :data:`COLUMNS` columns."""
    if count > COLUMNS:
        raise ZooError(f"expected at most {COLUMNS:,} columns in {name}; got {count:,}; transpose it, or choose among them")


class Unpacked(io.RawIOBase):
    """What a gzipped file unpacks to, which may not outgrow what has been read of the file: see :func:`room`."""

    def __init__(self, packed: IO[bytes], name: str):
        super().__init__()
        self._packed, self._name, self._count = packed, name, 0
        self._inner = gzip.GzipFile(fileobj=packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._inner.readinto(buffer)
        self._count += count
        most = room(self._packed.tell())
        if self._count > most:
            raise ZooError(
                f"expected {self._name} to unpack to at most {FOR_EACH} times its size and {UNPACKED:,} bytes; got more; check "
                "where it comes from, or unpack it first")
        return count


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Give a file's bytes, those that it unpacks to where it is gzipped, and how many there are at most."""
    with path.open("rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            yield io.BufferedReader(Unpacked(file, path.name), AT_A_TIME), room(path.stat().st_size)
        else:
            yield file, path.stat().st_size


def read_numpy(path: Path) -> Frame:
    """Read a NumPy array of one dimension (one column), two (rows, columns), or three or four (pictures).

    Of several arrays in an NPZ file, the one called ``x_train`` (as Keras stores MNIST), ``images``, ``x`` or ``data``.

    Raises:
        ZooError: an array that is not numeric or of more dimensions, or an NPZ file of several arrays with other names.
    """
    with path.open("rb") as file:
        packed = zipfile.is_zipfile(file)
    if packed:
        key = _entry(npz_names(path), path)
        found = npz_arrays(path, (key, ENTRIES.get(key)))
        values, labels = found[key], found.get(ENTRIES.get(key, ""))
    else:
        values, labels = npy_array(path), None
    return array_frame(values[:, None] if values.ndim == 1 else values, path, labels)


def npy_array(path: Path) -> np.ndarray:
    """Return the array in an NPY file.

    Raises:
        ZooError: an array of objects or without numbers, or fewer bytes than its header says.
        ValueError: another format.
    """
    with opened(path) as (file, most):
        return _npy(file, most, path.name)


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in an NPZ file."""
    with zipfile.ZipFile(path) as packed:
        return [info.filename.removesuffix(".npy") for info in packed.infolist()]


def npz_arrays(path: Path, names: Container[str | None] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays in an NPZ file by name: all of them, or those of ``names`` that it has.

    Raises:
        ZooError: as of :func:`npy_array`, or arrays that together unpack to more than such a file may.
        ValueError: another format.
    """
    left, found = room(path.stat().st_size), {}
    with zipfile.ZipFile(path) as packed:
        for info in packed.infolist():
            name = info.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack far more at a time
                raise ZooError(f"expected NumPy's own compression in {path.name}; got another; save it with numpy.savez")
            with packed.open(info) as file:
                found[name] = _npy(file, left, f"{path.name}, '{name}'")
            left -= found[name].nbytes
    return found


def _npy(file: IO[bytes], most: int, name: str) -> np.ndarray:
    """Return the array in an NPY file, of ``most`` bytes at most."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # the others have headers of up to 4 GB, for tables whose columns have names
        raise ZooError(f"expected an array of numbers in {name}; got an NPY file of version {version[0]}; save numbers alone")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
    if kind.hasobject:
        raise ZooError(f"expected an array of numbers in {name}; got one of Python objects; convert it")
    values = _numbers(file, shape[::-1] if by_columns else shape, kind, most, name)
    return values.T if by_columns else values


def _numbers(file: IO[bytes], shape: tuple[int, ...], kind: np.dtype, most: int, name: str) -> np.ndarray:
    """Return the next numbers of a file, of ``most`` bytes at most, as an array."""
    if len(shape) > AXES:
        raise ZooError(f"expected an array of up to {AXES} axes in {name}; got a header that says {len(shape)}; check the file")
    count, read = math.prod(shape) * kind.itemsize, 0
    if not count:
        raise ZooError(f"expected rows of data in {name}; got none, as its shape is {shape}; check the file")
    if count > most:
        raise ZooError(
            f"expected at most {most:,} bytes of numbers in {name}, by the file's size; got a header that says {count:,}; "
            "fetch the file again, or save it without compression")
    content = np.empty(count, np.uint8)
    while got := file.readinto(content[read : read + AT_A_TIME].data):  # type: ignore[attr-defined]
        read += got
    if read < count:
        raise ZooError(f"expected {count} bytes of numbers in {name}, as its header says; got {read}; fetch the file again")
    return content.view(kind).astype(kind.newbyteorder("="), copy=False).reshape(shape)


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
    with opened(path) as (file, most):
        head = file.read(4)
        sizes = file.read(4 * head[3]) if len(head) == 4 else b""
        if head[:2] != b"\0\0" or head[2] not in IDX_TYPES or not sizes or len(sizes) < 4 * head[3]:
            raise ZooError(f"expected an IDX file in {path.name}; got one that starts with {head!r}; check the file")
        shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
        values = _numbers(file, shape, np.dtype(IDX_TYPES[head[2]]), most, path.name)
        if file.read(1):
            raise ZooError(
                f"expected {values.nbytes} bytes of numbers in {path.name}, as its header says; got more; fetch the file again")
        return values


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
    check_columns(math.prod(values.shape[1:]), path.name)
    names = pixels(shape) if shape else [f"column_{i}" for i in range(values.shape[1])]
    flat = values.reshape(len(values), len(names)).astype(values.dtype.newbyteorder("="), copy=False)
    white = 255.0 if values.dtype == np.uint8 and values.max(initial=0) > 1 else 1.0
    kept = labels if labels is not None and _are_classes(labels, len(values)) else None
    return Frame(
        pd.DataFrame(flat, columns=names), labels=kept, shape=shape, white=white, remark="grey values divided by 255")


def _are_classes(labels: np.ndarray, rows: int) -> bool:
    """Return whether labels are a whole number for each row."""
    return labels.shape == (rows,) and labels.dtype.kind in "iu"
