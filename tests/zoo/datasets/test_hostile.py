"""Small files that ask for much are refused in a line, at once and in little memory: headers of any shape, and packed files."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import zoo
from tests import ROOT
from zoo.datasets.arrays import COLUMNS
from zoo.datasets.files import read_arguments, read_file

#: Files of each door that are harmed at random; `make soak` tries 2,000.
HARMED = int(os.environ.get("ZOO_MUTATIONS", "140"))
#: A file in each process that reads them: how long it took of the processor, and how much more memory than before any.
READ = """
import json, resource, sys, time
import zoo.datasets
from pathlib import Path
from zoo.datasets.files import read_arguments, read_file

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1024

zoo.dataset("faithful")
before, found = peak(), {}
for path in sys.argv[2:]:
    start = time.process_time()
    try:
        zoo.dataset(path) if sys.argv[1] == "dataset" else read_arguments(Path(path))
        text = ""
    except zoo.ZooError as error:
        text = str(error)
    found[Path(path).name] = [text, time.process_time() - start, peak() - before]
print(json.dumps(found))
"""


def idx(*shape: int) -> bytes:
    return struct.pack(f">2x2B{len(shape)}I", 8, len(shape), *shape)


def npy(*shape: int) -> bytes:
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def bomb(head: bytes, often: bytes, times: int) -> bytes:
    """A gzip file of ``head`` and 16 MB of a text, ``times`` times: members that stand one behind the other."""
    return gzip.compress(head) + times * gzip.compress(often * (2**24 // len(often)), 9)


def packed(names: Mapping[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for name, content in names.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def parquet() -> bytes:
    file = BytesIO()
    pd.DataFrame({"a": np.zeros(10**7, np.int8)}).to_parquet(file)
    return file.getvalue()


MB_8 = npy(2**20) + bytes(2**23)
WIDE = ",".join(f"c{i}" for i in range(10**6)) + "\n" + ",".join("1" * 10**6) + "\n"
HOSTILE: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "none.idx": (lambda: idx(0, 2**32 - 1), "got none, as its shape is (0, 4294967295)"),
    "columns.idx": (lambda: idx(2**32 - 1, 0), "got none, as its shape is (4294967295, 0)"),
    "all.idx": (lambda: idx(2**32 - 1, 2**32 - 1), "bytes of numbers in all.idx, by the file's size; got a header that says"),
    "none.npy": (lambda: npy(0, 10**12), "got none, as its shape is (0, 1000000000000)"),
    "all.npy": (lambda: npy(10**12), "by the file's size; got a header that says 8,000,000,000,000"),
    "idx3-ubyte.gz": (lambda: bomb(idx(10 * 2**20, 1024), b"\0", 600), "got a header that says 10,737,418,240"),
    "more.gz": (lambda: bomb(idx(2, 2) + b"\1\2\3\4", b"\0", 600), "expected 4 bytes of numbers in more.gz"),
    "rows.csv.gz": (lambda: bomb(b"a,b\n", b"1,2\n", 600), "to unpack to at most 100 times its size and 16,777,216 bytes; got"),
    "line.csv.gz": (lambda: bomb(b"a,b\n", b"1", 600), "to unpack to at most 100 times its size and 16,777,216 bytes; got"),
    "line.csv": (lambda: gzip.decompress(bomb(b"a,b\n", b"1", 1)), "expected"),
    "x.npz": (lambda: packed({"x": npy(2**24) + bytes(2**27)}), "expected at most"),
    "seven.npz": (lambda: packed({**{f"a{i}": MB_8 for i in range(6)}, "x": npy(10**12)}), "expected at most"),
    "other.npz": (lambda: packed({"x": npy(2, 2) + bytes(32)}, zipfile.ZIP_LZMA), "expected NumPy's own compression"),
    "wide.csv": (lambda: WIDE.encode(), "expected at most 262,144 columns in wide.csv; got 999,999"),
    "equal.parquet": (parquet, "numbers in equal.parquet, by the file's size; got 10,000,000; check where it comes from"),
}


def table(write: Callable[[pd.DataFrame, BytesIO], object]) -> bytes:
    file = BytesIO()
    rows = np.random.default_rng(1).normal(size=(40, 3))
    write(pd.DataFrame(rows, columns=["a", "b", "c"]).assign(who="ann"), file)
    return file.getvalue()


WHOLE: Mapping[str, Callable[[], bytes]] = {
    "rows.csv": lambda: table(lambda frame, file: frame.to_csv(file, index=False)),
    "rows.csv.gz": lambda: gzip.compress(table(lambda frame, file: frame.to_csv(file, index=False))),
    "rows.parquet": lambda: table(lambda frame, file: frame.to_parquet(file)),
    "x.npy": lambda: npy(40, 3) + np.random.default_rng(2).normal(size=(40, 3)).tobytes(),
    "x.npz": lambda: packed({"x": npy(40, 3) + bytes(960), "y": npy(40) + bytes(320)}),
    "idx3-ubyte": lambda: idx(10, 4, 4) + bytes(range(160)),
    "idx3-ubyte.gz": lambda: gzip.compress(idx(10, 4, 4) + bytes(range(160))),
}
#: What an attacker, or a disk, puts into a file.
WORDS = (
    b"", b"\0" * 8, b"\xff" * 8, b"\n" * 9, b'"' * 3, b",,,,", b"nan", b"1e999", b"9" * 30, b"(9999999999, 9)", b"|O",
    b"'>U99999999'")


def harmed(content: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with one to four changes: some bytes put in or taken out, or its end cut off."""
    raw = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        near = len(raw) if rng.random() < 0.5 else min(len(raw), 150)  # headers are what sizes come from
        at, length = int(rng.integers(0, near + 1)), int(rng.integers(0, 12))
        new = rng.bytes(int(rng.integers(0, 9))) if rng.random() < 0.5 else WORDS[rng.integers(len(WORDS))]
        raw[at : at + length] = new
        if rng.random() < 0.1:
            del raw[at:]
    return bytes(raw)


@pytest.mark.parametrize("door", ["dataset", "program"])
def test_mutated_files_are_read_or_refused_at_once(door: str, tmp_path: Path) -> None:
    rng, bases = np.random.default_rng(HARMED), {name: content() for name, content in WHOLE.items()}
    paths = [tmp_path / f"{i}{'-' if name.startswith('idx') else '.'}{name}" for i, name in zip(range(HARMED), cycle(bases))]
    for path, content in zip(paths, cycle(bases.values()), strict=False):
        path.write_bytes(harmed(content, rng))
    found = read_all(door, paths)
    refused = [text for text, _, _ in found.values() if text]
    assert len(found) == HARMED
    assert len(refused) > HARMED / 5
    for name, (text, seconds, megabytes) in found.items():
        assert not text or ("expected" in text and "\n" not in text and len(text) < 600), (name, text)
        assert seconds < 2, (name, seconds)
        assert megabytes < 300, (name, megabytes)


def read_all(door: str, paths: Sequence[Path]) -> dict[str, tuple[str, float, float]]:
    """Return of each file what was said against it, seconds, and megabytes above those that torch takes."""
    words = [sys.executable, "-W", "ignore", "-c", READ, door, *map(str, paths)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("door", ["dataset", "program"])
def test_files_that_ask_for_much_are_refused_at_once(door: str, tmp_path: Path) -> None:
    for name, (content, _) in HOSTILE.items():
        (tmp_path / name).write_bytes(content())
    found = read_all(door, [tmp_path / name for name in HOSTILE])
    for name, (_, expected) in HOSTILE.items():
        text, seconds, megabytes = found[name]
        assert expected in text, (name, text)
        assert "\n" not in text
        assert len(text) < 400, name
        assert seconds < 2, (name, seconds)
        assert megabytes < 300, (name, megabytes)


def test_as_many_columns_as_there_may_be_are_read_in_time(tmp_path: Path) -> None:
    """As many seconds for each column as for few: names were compared in pairs once."""
    values = np.random.default_rng(0).normal(size=(3, COLUMNS))
    np.save(tmp_path / "wide.npy", values)
    data = zoo.dataset(str(tmp_path / "wide.npy"))
    assert data.tensor.shape == (3, COLUMNS)
    assert data.columns[-1] == f"column_{COLUMNS - 1}"
    np.save(tmp_path / "wider.npy", np.zeros((2, COLUMNS + 1)))
    with pytest.raises(zoo.ZooError, match=r"expected at most 262,144 columns in wider\.npy; got 262,145; transpose it"):
        zoo.dataset(str(tmp_path / "wider.npy"))
    assert read_arguments(tmp_path / "wider.npy").shape == (2, COLUMNS + 1)


def test_quoted_names_of_many_columns_are_told_apart(tmp_path: Path) -> None:
    """A line of over 128 KB was refused, whatever separates it: by another separator it is one long field."""
    names = [f"column number {i}" for i in range(10_000)]
    frame = pd.DataFrame([range(10_000), range(1, 10_001)], columns=names)
    frame.to_csv(tmp_path / "wide.csv", index=False, quoting=2)
    assert zoo.dataset(str(tmp_path / "wide.csv")).columns == tuple(names)
    frame.columns = [*names[:-1], names[7]]
    frame.to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(zoo.ZooError, match=r"expected distinct column names in twice\.csv; got 'column number 7' twice"):
        zoo.dataset(str(tmp_path / "twice.csv"))


def test_honest_files_are_read_as_before(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(500, 7))
    np.save(tmp_path / "x.npy", np.asfortranarray(values))
    np.save(tmp_path / "big.npy", values.astype(">f4"))
    np.savez_compressed(tmp_path / "x.npz", x=values, y=np.arange(500), names=np.array(["a", "b"]))
    assert np.array_equal(zoo.dataset(str(tmp_path / "x.npy")).tensor.numpy(), values)
    assert np.array_equal(zoo.dataset(str(tmp_path / "big.npy")).tensor.numpy(), values.astype(np.float32))
    assert np.array_equal(zoo.dataset(str(tmp_path / "x.npz")).tensor.numpy(), values)
    found = read_arguments(tmp_path / "x.npz")
    assert isinstance(found, dict)
    assert [*found] == ["x", "y", "names"]
    assert found["names"].tolist() == ["a", "b"]
    assert np.array_equal(found["x"], values)
    assert found["x"].flags.writeable


def test_a_mapped_table_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.npy").write_bytes(npy(0, 10**12))
    with pytest.raises(zoo.ZooError, match=r"got float64 of shape \(0, 1000000000000\); convert it"):
        zoo.mapped(tmp_path / "none.npy")


def test_quoted_names_between_spaces(tmp_path: Path) -> None:
    """As R's write.table has them."""
    file = tmp_path / "r.csv"
    file.write_text('"erup dur" "waiting"\n3.6 79\n1.8 54\n3.3 74\n')
    assert list(read_file(file).columns) == ["erup dur", "waiting"]


def test_numbers_of_the_other_byte_order_are_a_programs_arguments(tmp_path: Path) -> None:
    file = tmp_path / "be.npy"
    np.save(file, np.arange(6, dtype=">f8").reshape(3, 2))
    found = read_arguments(file)
    assert isinstance(found, np.ndarray)
    assert torch.as_tensor(found).tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
