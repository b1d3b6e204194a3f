"""Tables that stay on disk: tensors over memory-mapped files, of which only the rows in use are in memory."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ZooError

#: Numbers that are converted at a time.
BLOCK = 2**22


def mapped(source: Any, into: str | Path | None = None) -> Tensor:
    """Return a table as a tensor (rows, columns) whose numbers stay on disk, for fits that need not hold it in memory.

    EM of quadratic models and minibatches of svi go through such a tensor a few rows at a time. What is in memory is then a
    matter of the operating system, which keeps the pages that were read as long as there is room.

    Args:
        source: a ``.npy`` file or a ``numpy.memmap``, which are mapped as they are; a ``.parquet`` file or a ``.zarr``
            directory; or any array with a ``shape``, a ``dtype`` and rows that can be sliced, as Zarr, Dask and HDF5 have.
            These are written to an ``.npy`` file first, a few rows at a time.
        into: that file; ``None``: a temporary one, which is gone with the tensor.

    Raises:
        ZooError: a source of another kind, shape or type, a file that can't be read, or a full disk.

    >>> path = Path(tempfile.mkdtemp()) / "rows.npy"
    >>> np.save(path, np.arange(6.0).reshape(3, 2))
    >>> mapped(path)[1]
    tensor([2., 3.], dtype=torch.float64)
    """
    if isinstance(source, np.ndarray):
        return _tensor(source, "the array")
    if not isinstance(source, str | Path):
        return _spooled(_slices(source), into)
    path = Path(source)
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ZooError(f"expected a table ending in {', '.join(OPENERS)}; got '{path.name}'; convert it")
    if not path.exists():
        raise ZooError(f"expected a table at '{path}'; got no such file; check the path")
    try:
        found = opener(path)
    except ImportError as error:
        raise ZooError(f"expected zarr for {path.name}; got none installed; pip install 'latent-zoo[zarr]'") from error
    except (OSError, ValueError, KeyError) as error:
        raise ZooError(f"expected a readable {path.suffix[1:]} table; got '{path.name}': {_first(error)}; mend it") from error
    return _tensor(found, path.name) if isinstance(found, np.ndarray) else _spooled(found, into)


class Blocks:
    """Rows that come in blocks: how many there are in all, of what type, and an iterator over them."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, blocks: Callable[[], Iterator[np.ndarray]]):
        if len(shape) != 2 or not shape[0] or not shape[1]:
            raise ZooError(f"expected a table of shape (rows, columns); got {tuple(shape)}; reshape it")
        self.shape, self.blocks = shape, blocks
        kind = np.dtype(dtype)
        if kind.kind not in "fiub":
            raise ZooError(f"expected a table of numbers; got {kind}; convert it")
        self.dtype = kind if kind in (np.float32, np.float64) else np.dtype(np.float64)


def _slices(source: Any) -> Blocks:
    """Return the blocks of anything that has a shape and a type and whose rows can be sliced."""
    if not all(hasattr(source, name) for name in ("shape", "dtype", "__getitem__")):
        raise ZooError(
            f"expected a path, or an array whose rows can be sliced; got {type(source).__name__}; pass one of these")
    shape = tuple(source.shape)

    def blocks() -> Iterator[np.ndarray]:
        step = max(1, BLOCK // shape[1])
        for start in range(0, shape[0], step):
            yield np.asarray(source[start : start + step])

    return Blocks(shape, source.dtype, blocks)


def _parquet(path: Path) -> Blocks:
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(path)
    names = [field.name for field in file.schema_arrow if not field.name.startswith("__index_level_")]
    kinds = [np.dtype(file.schema_arrow.field(name).type.to_pandas_dtype()) for name in names]
    bad = next((name for name, kind in zip(names, kinds, strict=True) if kind.kind not in "fiub"), None)
    if bad is not None:
        raise ZooError(f"expected columns of numbers in {path.name}; got column '{bad}' of others; leave it out")

    def blocks() -> Iterator[np.ndarray]:
        for batch in file.iter_batches(max(1, BLOCK // len(names)), columns=names):
            yield np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], 1)

    return Blocks((file.metadata.num_rows, len(names)), np.result_type(*kinds) if kinds else float, blocks)


def _zarr(path: Path) -> Blocks:
    import zarr  # an extra of its own: few tables come so

    return _slices(zarr.open_array(path, mode="r"))


def _npy(path: Path) -> np.ndarray:
    # Copy on write: torch wants memory that it could write to, and the file stays as it is.
    found: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    return found


#: By the end of a path: what it holds, mapped, or in blocks that are still to be written where they can be mapped.
OPENERS: Mapping[str, Callable[[Path], np.ndarray | Blocks]] = {
    ".npy": _npy, ".parquet": _parquet, ".pq": _parquet, ".zarr": _zarr}


def _spooled(rows: Blocks, into: str | Path | None) -> Tensor:
    """Write blocks to an ``.npy`` file, and map that."""
    folder = tempfile.TemporaryDirectory(prefix="zoo-rows-", ignore_cleanup_errors=True) if into is None else None
    path = Path(folder.name) / "rows.npy" if folder is not None else Path(str(into))
    try:
        file = np.lib.format.open_memmap(path, mode="w+", dtype=rows.dtype, shape=rows.shape)
        at = 0
        for block in rows.blocks():
            file[at : at + len(block)] = block
            at += len(block)
        file.flush()
    except OSError as error:
        raise ZooError(f"expected room for {path.name} in {path.parent}; got: {_first(error)}; set into= or TMPDIR") from error
    del file
    found = _npy(path)
    if folder is not None:
        folder.cleanup()  # the pages stay as long as they are mapped
    return _tensor(found, path.name)


def _tensor(array: np.ndarray, name: str) -> Tensor:
    """Return the tensor over an array's own memory."""
    if array.ndim != 2 or not array.size or array.dtype not in (np.float32, np.float64) or not array.dtype.isnative:
        raise ZooError(
            f"expected a table of float32 or float64, (rows, columns), in {name}; got {array.dtype} of shape {array.shape}; "
            "convert it")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nor does anybody write to data
        return torch.from_numpy(array)


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
