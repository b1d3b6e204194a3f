"""Data sets by name, and a user's files in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from zoo.registry import KINDS

SHAPES = {
    "faithful": (272, 2), "iris": (150, 4), "wine": (178, 13), "digits": (1797, 64), "breast_cancer": (569, 30),
    "diabetes": (442, 10)}


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, entry in zoo.DATASETS.items() for k in entry.gives])
def test_every_data_set_serves_as_what_it_says(name: str, kind: str) -> None:
    data = zoo.dataset(name, kind)
    x = data.x if isinstance(data.x, dict) else {"x": data.x}
    assert kind in KINDS
    assert all(v.dtype == torch.float64 and bool(v.isfinite().all()) for v in x.values())
    table = x.get("x", x.get("X"))
    if table is not None:
        assert tuple(table.shape) == SHAPES[name]
        assert len(data.columns) == table.shape[1]
    if kind == "binary":
        assert set(x["y"].unique().tolist()) == {0.0, 1.0}
        assert data.classes == ("malignant", "benign")


def test_faithful_is_the_known_table() -> None:
    x = zoo.dataset("faithful").x
    assert x[0].tolist() == [3.6, 79.0]
    assert x.mean(0).tolist() == pytest.approx([3.487783, 70.897059], abs=1e-6)


def test_standardise_and_drop_constant_say_so() -> None:
    data = zoo.dataset("digits", standardise=True, drop_constant=True)
    assert data.x.shape == (1797, 61)
    torch.testing.assert_close(data.x.std(0, unbiased=False), torch.ones(61, dtype=torch.double))
    assert len(data.remarks) == 2
    with pytest.raises(zoo.ZooError, match="expected columns that vary in digits"):
        zoo.dataset("digits", standardise=True)


def test_files_give_the_same_numbers(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(6, 2) ** 1.5
    frame = pd.DataFrame(values, columns=["a", "b"])
    frame.to_csv(tmp_path / "x.csv", index=False)
    frame.to_csv(tmp_path / "index.csv")
    np.savetxt(tmp_path / "bare.csv", values, delimiter=",")
    frame.to_parquet(tmp_path / "x.parquet")
    np.save(tmp_path / "x.npy", values.astype(np.float32))
    for name in ("x.csv", "index.csv", "bare.csv", "x.parquet", "x.npy"):
        x = zoo.dataset(str(tmp_path / name)).x
        np.testing.assert_allclose(x.numpy(), values, rtol=1e-6, err_msg=name)


def test_targets_of_files(tmp_path: Path) -> None:
    frame = pd.DataFrame({"sick": ["no", "yes", "no", "yes"], "a": [1.0, 2, 3, 4], "b": [4, 3.5, 1, 7]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    data = zoo.dataset(str(tmp_path / "x.csv"), "binary", target="sick")
    assert data.x["y"].tolist() == [0, 1, 0, 1]
    assert data.classes == ("no", "yes")
    frame.drop(columns="sick").to_csv(tmp_path / "numbers.csv", index=False)
    data = zoo.dataset(str(tmp_path / "numbers.csv"), "regression")
    assert data.columns == ("a",)
    assert data.x["y"].tolist() == [4, 3.5, 1, 7]


def test_effects_keep_the_names_of_their_rows() -> None:
    assert zoo.dataset("eight_schools").rows[0] == "Choate"


def test_take_picks_units_and_leaves_shared_entries() -> None:
    from zoo.data import take

    x = {"y": torch.arange(4.0), "scale": torch.tensor(2.0), "basis": torch.ones(3, 4)}
    part = take(x, torch.tensor([3, 1]), 4)
    assert part["y"].tolist() == [3.0, 1.0]
    assert part["scale"] is x["scale"]
    assert part["basis"] is x["basis"]
