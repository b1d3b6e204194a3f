"""Tables that stay on disk: whatever they come as, the same rows; and fits that do not hold them in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import experiments
import zoo
from zoo.program.sites.layout import layout

ROWS = np.random.default_rng(0).normal(size=(1000, 3))


def _npy(folder: Path) -> Any:
    np.save(folder / "rows.npy", ROWS)
    return folder / "rows.npy"


def _memmap(folder: Path) -> Any:
    return np.load(_npy(folder), mmap_mode="r")


def _parquet(folder: Path) -> Any:
    pd.DataFrame(ROWS, columns=list("abc")).to_parquet(folder / "rows.parquet", row_group_size=64)
    return str(folder / "rows.parquet")


def _dask(folder: Path) -> Any:
    array = pytest.importorskip("dask.array")
    return array.from_array(ROWS, chunks=(300, 2))


def _zarr(folder: Path) -> Any:
    zarr = pytest.importorskip("zarr")
    zarr.save_array(folder / "rows.zarr", ROWS)
    return folder / "rows.zarr"


def _hdf5(folder: Path) -> Any:
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "rows.h5", "w").create_dataset("x", data=ROWS)


@pytest.mark.parametrize("make", [_npy, _memmap, _parquet, _dask, _zarr, _hdf5])
def test_all_sources_give_the_same_rows(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.datasets.spool.BLOCK", 301)  # so that there are many blocks
    x = zoo.mapped(make(tmp_path))
    assert torch.equal(x, torch.from_numpy(ROWS))


def test_rows_are_written_where_one_says(tmp_path: Path) -> None:
    x = zoo.mapped(_parquet(tmp_path), into=tmp_path / "kept.npy")
    assert torch.equal(zoo.mapped(tmp_path / "kept.npy"), x)


def test_whole_numbers_become_floating(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}).to_parquet(tmp_path / "rows.pq")
    assert zoo.mapped(tmp_path / "rows.pq").tolist() == [[1.0, 0.5], [2.0, 1.5]]


@pytest.mark.parametrize(("source", "match"), [
    ("rows.csv", r"expected a table ending in \.npy, .*; got 'rows.csv'; convert it"),
    ("nothing.npy", "expected a table at 'nothing.npy'; got no such file; check the path"),
    (np.zeros(3), r"expected a table of float32 or float64, \(rows, columns\), in the array; got float64 of shape \(3,\)"),
    (np.zeros((3, 2), dtype=int), "expected a table of float32 or float64"),
    ([1.0, 2.0], "expected a path, or an array whose rows can be sliced; got list; pass one of these"),
])
def test_what_is_no_table_is_refused(source: Any, match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(zoo.ZooError, match=match):
        zoo.mapped(source)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    for name in ("rows.npy", "rows.parquet"):
        (tmp_path / name).write_bytes(b"PAR1 or not")
        with pytest.raises(zoo.ZooError, match=f"expected a readable .* table; got '{name}': .*; mend it"):
            zoo.mapped(tmp_path / name)
    pd.DataFrame({"a": ["x", "y"]}).to_parquet(tmp_path / "words.parquet")
    with pytest.raises(zoo.ZooError, match=r"expected columns of numbers in words\.parquet; got column 'a' of others"):
        zoo.mapped(tmp_path / "words.parquet")


def test_em_on_mapped_rows_is_em(tmp_path: Path) -> None:
    x = torch.from_numpy(ROWS)
    fits = [experiments.fit(zoo.build("gmm", rows, components=2), "exact", rows, steps=5) for rows in (
        x, zoo.mapped(_memmap(tmp_path)))]
    assert fits[0].elbo == fits[1].elbo


def test_some_rows_tell_the_layout_of_many() -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(40_000, 2)))
    for name in ("gmm", "ppca"):
        options = {"latent": 1} if name == "ppca" else {}
        model = zoo.build(name, x, **options)
        many, whole = model.latents(x), layout(model, x, model.label)
        assert (many.units, many.unit, many.size) == (whole.units, whole.unit, whole.size) == (40_000, "rows", 1)
        for found, expected in zip([*many.sites, *many.observed], [*whole.sites, *whole.observed], strict=True):
            assert (found.shape, found.plates, found.size) == (expected.shape, expected.plates, expected.size)


def test_rows_that_are_no_units_are_laid_out_whole() -> None:
    def shared(x: torch.Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).expand([2]).to_event(1), obs=x)

    x = torch.zeros(40_000, 2, dtype=torch.double)
    found = zoo.as_model(shared).latents(x)
    assert (found.units, found.observed[0].shape) == (1, torch.Size([40_000, 2]))


#: Fits a table of a small and of a large size, and prints by how many megabytes the larger raised the peak of memory.
PEAK = """
import resource, sys
import numpy as np, torch
import experiments, zoo
def fit(rows):
    path = f"{sys.argv[1]}/{rows}.npy"
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, 8))
    for start in range(0, rows, 100_000):
        file[start : start + 100_000] = np.random.default_rng(start).normal(size=(min(100_000, rows - start), 8))
    del file
    x = zoo.mapped(path)
    model = zoo.build("gmm", x, components=4)
    experiments.fit(model, "exact", x, steps=2, progress=False)
    experiments.fit(model, "categorical:encoder", x, steps=20, progress=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
small = fit(100_000)
print(fit(2_000_000) - small)
"""


@pytest.mark.long
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """2 · 10⁶ rows of 8 columns are 61 MiB: with these pages, and a permutation of the rows, hardly more may be asked for."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, timeout=300, check=True)
    assert float(done.stdout) < 61 + 15 + 30
