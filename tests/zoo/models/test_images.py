"""Images and counts: what their numbers must be, binarisation, and the files that pictures come in."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from zoo.datasets.arrays import IDX_TYPES
from zoo.datasets.images import BINARISATIONS

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (7, 4, 5)).astype(np.uint8)
PICTURES[:, 0] = 0  # a constant border
PICTURES[0, 1, 1] = 255


def idx(values: np.ndarray, code: int = 8) -> bytes:
    """Return an array as an IDX file's bytes."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, code, values.ndim, *values.shape)
    return head + values.astype(IDX_TYPES[code]).tobytes()


# -- binarisation --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grey() -> torch.Tensor:
    return zoo.dataset("digits", "images").x


def agrees(x: torch.Tensor, grey: torch.Tensor) -> bool:
    """Whether each pixel's mean over rows is the grey one, within five standard errors; exactly where it can't vary."""
    se = (grey * (1 - grey)).sum(0).sqrt()
    return bool(((x - grey).sum(0).abs() <= 5 * se).all())


def test_grey_images_say_nothing_of_binarisation(grey: torch.Tensor) -> None:
    data = zoo.dataset("digits", "images")
    assert (data.name, data.remarks, data.view, data.shape) == ("digits", (), None, (8, 8))


def test_static_binarisation_is_drawn_once(grey: torch.Tensor) -> None:
    data, again, other = (zoo.dataset("digits", "images", binarise="static", seed=seed) for seed in (0, 0, 1))
    assert data.name == "digits (static binarisation)"
    assert data.remarks == ("each pixel drawn once from Bernoulli(grey value), seed 0",)
    assert other.name == "digits (static binarisation, seed 1)"
    assert data.view is None
    assert set(data.x.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(data.x, again.x)
    assert not torch.equal(data.x, other.x)
    assert agrees(data.x, grey)
    assert torch.equal(zoo.dataset("digits", "images", binarise="static", dtype=torch.float32).x.double(), data.x)


def test_static_binarisation_leaves_generators_alone() -> None:
    before = torch.get_rng_state()
    zoo.dataset("digits", "images", binarise="static")
    assert torch.equal(before, torch.get_rng_state())


def test_threshold(grey: torch.Tensor) -> None:
    data = zoo.dataset("digits", "images", binarise="threshold")
    assert data.name == "digits (threshold binarisation)"
    assert data.view is None
    assert torch.equal(data.x, (grey >= 0.5).double())


def test_dynamic_binarisation_is_drawn_afresh(grey: torch.Tensor) -> None:
    data = zoo.dataset("digits", "images", binarise="dynamic")
    assert data.name == "digits (dynamic binarisation)"
    assert data.remarks == ("each pixel drawn from Bernoulli(grey value) afresh in every minibatch",)
    assert torch.equal(data.x, grey)
    with zoo.seeded(0):
        first, second = data.view(data.x), data.view(data.x)
    assert not torch.equal(first, second)
    assert first.shape == grey.shape
    assert all(set(x.unique().tolist()) == {0.0, 1.0} and agrees(x, grey) for x in (first, second))
    with zoo.seeded(0):
        assert torch.equal(data.view(data.x), first)


@pytest.mark.parametrize("how", BINARISATIONS)
def test_black_and_white_stays_as_it_is(how: str, tmp_path: Path) -> None:
    values = RNG.integers(0, 2, (6, 9))
    np.save(tmp_path / "x.npy", values.astype(np.uint8))  # bytes, but not of 255 grey values
    data = zoo.dataset(str(tmp_path / "x.npy"), "images", binarise=how)
    assert torch.equal(data.x if data.view is None else data.view(data.x), torch.from_numpy(values).double())
    assert data.shape == (3, 3)


@pytest.mark.parametrize(("name", "kind", "options", "text"), [
    ("digits", "images", {"binarise": "statik"},
     "expected binarise to be one of static, dynamic, threshold; got 'statik'; did you mean 'static'?"),
    ("digits", "table", {"binarise": "static"},
     "expected binarise with images only; got binarise='static' for digits as table; leave it out"),
    ("eight_schools", "effects", {"binarise": "dynamic"}, "got binarise='dynamic' for eight_schools as effects"),
    ("digits", "images", {"standardise": True}, "expected images of digits as they are; got standardise"),
    ("digits", "counts", {"standardise": True}, "expected counts of digits as they are; got standardise"),
])
def test_options_that_do_not_fit(name: str, kind: str, options: dict[str, bool], text: str) -> None:
    with pytest.raises(zoo.ZooError) as caught:
        zoo.dataset(name, kind, **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dropped_columns_leave_no_pictures() -> None:
    data = zoo.dataset("digits", "images", drop_constant=True)
    assert data.x.shape == (1797, 61)
    assert data.shape == ()
    assert len(data.columns) == 61
    assert zoo.dataset("digits", "counts", drop_constant=True).shape == ()


# -- ranges --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "value", "text"), [
    ("images", 255, r"got 0 to 255, 255 in row 1 \(from 0\), column 'b'; divide by 255"),
    ("images", 2.5, r"got 0 to 2.5, 2.5 in row 1 \(from 0\), column 'b'; rescale or clip them"),
    ("images", -1, r"got -1 to 1, -1 in row 1 \(from 0\), column 'b'; rescale or clip them"),
    ("images", 256, "got 0 to 256, .*; rescale or clip them"),
    ("counts", 0.5, r"whole numbers from 0 up for counts in x.csv; got 0.5 in row 1 \(from 0\), column 'b'; round them"),
    ("counts", -1, r"got -1 in row 1 \(from 0\), column 'b'; drop or recode them"),
    ("images", np.nan, r"got NaN or infinity in column 'b', row\(s\) 1 \(from 0\)"),
    ("counts", np.inf, r"got NaN or infinity in column 'b', row\(s\) 1 \(from 0\)"),
])
def test_numbers_out_of_range_are_shown(tmp_path: Path, kind: str, value: float, text: str) -> None:
    frame = pd.DataFrame({"a": [0, 1, 1], "b": [1.0, 0.0, 1.0]})
    frame.loc[1, "b"] = value
    frame.to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(zoo.ZooError, match=text) as caught:
        zoo.dataset(str(tmp_path / "x.csv"), kind)
    assert "\n" not in str(caught.value)


def test_constant_columns_are_refused_in_tables_only(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,c,d\n0,1,0,1\n0,0,1,1\n")
    assert zoo.dataset(str(path), "images").shape == (2, 2)
    assert zoo.dataset(str(path), "counts").shape == ()
    with pytest.raises(zoo.ZooError, match=r"expected columns that vary in x.csv; got constant column\(s\) a, d"):
        zoo.dataset(str(path))
    path.write_text("a,b,c\n0,1,0\n0,0,1\n")
    assert zoo.dataset(str(path), "images").shape == ()


# -- files ---------------------------------------------------------------------------------------------------------------


def _plain(folder: Path) -> Path:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(idx(PICTURES))
    return path


def _dotted(folder: Path) -> Path:
    path = folder / "train-images.idx3-ubyte"
    path.write_bytes(idx(PICTURES))
    return path


def _zipped(folder: Path) -> Path:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(PICTURES), mtime=0))
    return path


def _npz(folder: Path) -> Path:
    np.savez(folder / "mnist.npz", x_test=PICTURES[:2], x_train=PICTURES, y_train=np.arange(7))
    return folder / "mnist.npz"


def _one(folder: Path) -> Path:
    np.savez_compressed(folder / "one.npz", PICTURES)
    return folder / "one.npz"


def _npy(folder: Path) -> Path:
    np.save(folder / "x.npy", PICTURES)
    return folder / "x.npy"


@pytest.mark.parametrize("write", [_plain, _dotted, _zipped, _npz, _one, _npy])
def test_pictures_round_trip(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = str(write(tmp_path))
    flat = torch.from_numpy(PICTURES.reshape(7, 20)).double()
    images = zoo.dataset(path, "images")
    assert torch.equal(images.x, flat / 255)
    assert (images.shape, images.remarks) == ((4, 5), ("grey values divided by 255",))
    assert images.columns[6] == "pixel_1_1"
    counts = zoo.dataset(path, "counts")
    assert torch.equal(counts.x, flat)
    assert (counts.shape, counts.remarks) == ((4, 5), ())
    table = zoo.dataset(path, "table", drop_constant=True)
    assert torch.equal(table.x, flat[:, 5:] / 255)
    assert len(table.remarks) == 2
    with pytest.raises(zoo.ZooError, match=r"got constant column\(s\) pixel_0_0"):
        zoo.dataset(path, "table")


def test_labels_of_files(tmp_path: Path) -> None:
    assert zoo.dataset(str(_npz(tmp_path)), "images").labels.tolist() == list(range(7))
    path = str(_plain(tmp_path))
    assert zoo.dataset(path, "images").labels is None
    beside = tmp_path / "train-labels-idx1-ubyte"
    beside.write_bytes(idx(np.arange(7)[::-1]))
    assert zoo.dataset(path, "images").labels.tolist() == [6, 5, 4, 3, 2, 1, 0]
    beside.write_bytes(idx(np.arange(3)))  # of other pictures
    assert zoo.dataset(path, "images").labels is None
    with pytest.raises(zoo.ZooError, match="got one number a row, as labels are; pass the file of images"):
        zoo.dataset(str(beside), "images")


@pytest.mark.parametrize("code", IDX_TYPES)
def test_every_number_type_of_idx(tmp_path: Path, code: int) -> None:
    values = RNG.integers(0, 100, (6, 3))
    (tmp_path / "x.idx").write_bytes(idx(values, code))
    assert zoo.dataset(str(tmp_path / "x.idx")).x.tolist() == values.tolist()


def test_arrays_of_fractions(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PICTURES / 255, other=np.zeros(3))
    data = zoo.dataset(str(tmp_path / "x.npz"), "images")
    assert (data.shape, data.remarks) == ((4, 5), ())
    np.testing.assert_array_equal(data.x, PICTURES.reshape(7, 20) / 255)
    with pytest.raises(zoo.ZooError, match=r"expected a numeric array of shape \(rows, columns\) in x.npz; got float64"):
        zoo.dataset(str(tmp_path / "x.npz"), "table")


def test_a_flat_array_of_bytes_is_a_table_as_it_is(tmp_path: Path) -> None:
    flat = PICTURES.reshape(7, 20)[:, 5:]
    np.savez(tmp_path / "x.npz", data=flat, target=np.arange(7.0))
    data = zoo.dataset(str(tmp_path / "x.npz"))
    assert torch.equal(data.x, torch.from_numpy(flat).double())
    assert data.labels is None  # classes are whole numbers
    assert zoo.dataset(str(tmp_path / "x.npz"), "images").x.max() == 1


@pytest.mark.parametrize(("name", "content", "text"), [
    ("x.idx", idx(PICTURES)[:-1], r"expected 140 bytes of numbers in x.idx, as its header says; got 139; fetch the file again"),
    ("x.idx", idx(PICTURES) + b"\0", "got more; fetch"),
    ("x.idx", idx(PICTURES)[:9], "expected an IDX file in x.idx; got one that starts with"),
    ("x.idx", b"", "expected an IDX file in x.idx; got one that starts with b''; check the file"),
    ("x-idx3-ubyte", b"PNG\n" * 9, r"got one that starts with b'PNG\\n'; check the file"),
    ("x.idx", b"\0\0\7" + idx(PICTURES)[3:], "expected an IDX file"),
    ("x.idx", idx(np.zeros((0, 3, 3))), "expected rows of data in x.idx; got none"),
    ("x.idx", b"\0\0\10\3" + b"\xff" * 12, "got a header that says 79,228,162,458,924,105,385,300,197,375; fetch"),
    ("x.idx.gz", gzip.compress(idx(PICTURES), mtime=0)[:-12], "expected a readable gz file; got 'x.idx.gz', which fails with"),
    ("x.gz", gzip.compress(b"a,b\n1,2\n", mtime=0), "expected an IDX file in x.gz"),
    ("x.npz", b"no zip", "expected a readable npz file; got 'x.npz', which fails with"),
    ("x.npz", b"PK\3\4 no zip", "expected a readable npz file; got 'x.npz', which fails with"),
    ("x.npy", b"\x93NUMPY", "expected a readable npy file; got 'x.npy', which fails with"),
])
def test_broken_files(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(zoo.ZooError, match=text) as caught:
        zoo.dataset(str(tmp_path / name), "images")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("arrays", "text"), [
    ({"a": PICTURES, "b": PICTURES}, "expected one array, or one called x_train or images or x or data, in x.npz; got a, b;"),
    ({}, "in x.npz; got none; name it so"),
    ({"x": np.array([{"a": 1}], dtype=object)}, "expected an array of numbers in x.npz, 'x'; got one of Python objects"),
    ({"x": np.array([["a", "b"]])}, r"expected a numeric array of shape \(rows, columns\), or of pictures .* got <U1 of shape"),
    ({"x": np.zeros((2, 3, 3, 3, 3))}, r"got float64 of shape \(2, 3, 3, 3, 3\); reshape it"),
    ({"x": np.array(1.0)}, r"got float64 of shape \(\); reshape it"),
    ({"x": np.array([[0.1, np.nan], [0.2, 0.3]])}, r"got NaN or infinity in column 'column_1', row\(s\) 0"),
    ({"x": np.array([[0.1, 1j], [0.2, 0.3]])}, "expected real numbers in column 'column_0' of x.npz; got complex"),
])
def test_arrays_that_are_no_images(tmp_path: Path, arrays: dict[str, np.ndarray], text: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(zoo.ZooError, match=text) as caught:
        zoo.dataset(str(tmp_path / "x.npz"), "images")
    assert "\n" not in str(caught.value)


def test_a_target_is_not_for_images(tmp_path: Path) -> None:
    with pytest.raises(zoo.ZooError, match="expected no target for a model of images data; got --target a; leave it out"):
        zoo.dataset(str(_plain(tmp_path)), "images", target="a")
    with pytest.raises(zoo.ZooError, match=r"got uint8 of shape \(7, 4, 5\); reshape it"):
        zoo.dataset(str(_plain(tmp_path)), "regression")
