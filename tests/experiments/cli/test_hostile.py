"""Guides, sizes and paths that nobody means are refused in one line, by every command, before memory is taken for them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import zoo
from experiments.cli import run
from experiments.runs.job import Job
from experiments.runtime.files import directory, whole
from guides.families.family import Start
from guides.families.gaussian import FullRank
from guides.families.mixture import MixtureFamily
from guides.spec import parse, split_commas
from zoo.nn.networks import check_widths

NESTED, OPEN, LONG = "draws(" * 1000, "mean_field" + "(" * 100_000, "x" * 10**6
#: By the command that takes guides, what stands before one.
COMMANDS = {
    "fit": ("fit", "eight_schools", "--no-save", "-g"), "compare": ("compare", "eight_schools", "--no-save", "-g"),
    "summary": ("summary", "eight_schools", "-g"), "recommend": ("recommend", "eight_schools", "-g")}
GUIDES = {
    NESTED: "expected a guide of at most 1,000 characters; got 6,000",
    OPEN: "at most 1,000 characters; got 100,010, which begin",
    LONG: "at most 1,000 characters; got 1,000,000", "draws(" * 160: "expected a guide as family[:amortisation]",
    "mean_field" + "(" * 900: "expected a guide as family[:amortisation]",
    "mixture(999999999999)": "expected the components of mixture to be from 2 to 1,000; got 999999999999",
    "flow(layers=1000000000)": "expected a flow guide of at most 1,000 layers of weights; got 3,000,000,000",
    "flow(hidden=(1000000000,))": "expected at most 268,435,456 parameters in a flow guide; got",
    "low_rank(1000000000000)": "to be at most the 10 latent dimensions"}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    start = time.process_time()
    code = run(list(words))
    assert time.process_time() - start < 5  # of which torch's own import may take two
    said = capsys.readouterr()
    assert (code, said.out) == (2, ""), said.err[:300]
    [line] = said.err.splitlines()
    assert line.startswith("error: ")
    assert len(line) < 1500
    return line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("guide", GUIDES, ids=lambda text: text[:25])
def test_guides_that_nobody_means(capsys: pytest.CaptureFixture[str], command: str, guide: str) -> None:
    assert GUIDES[guide] in refused(capsys, *COMMANDS[command], guide)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda text: text[:25])
def test_guides_of_a_spec_that_nobody_means(capsys: pytest.CaptureFixture[str], tmp_path: Path, guide: str) -> None:
    (tmp_path / "s.toml").write_text(f'model = "eight_schools"\ncommand = "compare"\nguides = ["{guide}"]\n')
    assert GUIDES[guide] in refused(capsys, "run", str(tmp_path / "s.toml"), "--no-save")


def test_networks_that_nobody_means(capsys: pytest.CaptureFixture[str]) -> None:
    wide = ("fit", "ppca", "--no-save", "-g", "mean_field:encoder(hidden=(1000000000,))")
    assert "expected at most 268,435,456 parameters in a network; got 18,000,000,004; lower" in refused(capsys, *wide)
    assert "parameters in a network; got" in refused(capsys, "fit", "vae", "--hidden", "1000000000", "--no-save")
    assert "parameters in a network; got" in refused(
        capsys, "fit", "vae", "--network", "conv", "--hidden", "100000000", "--no-save")
    with pytest.raises(zoo.ZooError, match="expected a network of at most 1,000 layers of weights; got 1,001; lower"):
        check_widths([1] * 1002, "a network")


@pytest.mark.parametrize("text", ["mean_field({[]: 1})", "mean_field(1if 1else 2)", "mean_field(" + "-" * 900 + "1)",
                                  "mean_field\0"])
def test_arguments_that_python_can_not_read_are_an_error_of_the_guide(text: str) -> None:
    with pytest.raises(zoo.ZooError, match=r"expected a guide as family\[:amortisation\]"):
        parse(text)


def test_a_long_list_of_guides_is_split_in_linear_time() -> None:
    start = time.process_time()
    assert len(split_commas("mean_field(a=(1, 2))," * 50_000)) == 50_001
    assert time.process_time() - start < 2


def test_families_count_before_they_take_memory() -> None:
    """Of zeros expanded: a start that takes no memory itself."""
    start = Start(torch.zeros(1, 1).expand(1, 10**6), torch.ones(1, 1).expand(1, 10**6), None)
    with pytest.raises(zoo.ZooError, match="parameters in full_rank of 1,000,000 latents; got 500,001,500,000; use"):
        FullRank().initial(start)
    units = Start(torch.zeros(1, 1).expand(10**6, 4), torch.ones(1, 1).expand(10**6, 4), None)
    with pytest.raises(zoo.ZooError, match="in a mixture of 1,000,000 units; got 900,000,000; lower its components"):
        MixtureFamily(100).initial(units)


@pytest.mark.parametrize("words", [
    ("fit", "eight_schools", "--out"), ("compare", "eight_schools", "--out"), ("recommend", "eight_schools", "--out"),
    ("run", "eight_schools", "--out"), ("study", "elbo", "--out"), ("fit", "eight_schools", "--save-spec"),
    ("run",), ("resume",), ("report",), ("runs",), ("fit", "gmm", "--data")])
def test_names_that_no_file_can_have(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    line = refused(capsys, *words, "./" + "x" * 300 + ".csv")
    assert "File name too long" in line
    assert len(line) < 300


def test_names_with_a_zero_byte(tmp_path: Path) -> None:
    with pytest.raises(zoo.ZooError, match=r"expected a file name without a zero byte; got .*choose another"), directory(
            tmp_path / "a\0b"):
        pass
    with pytest.raises(zoo.ZooError, match="expected a file name without a zero byte"):
        whole(tmp_path / "a\0b", "text")
    with pytest.raises(zoo.ZooError, match=r"expected a directory to write to; got --out .*: File name too long"), directory(
            tmp_path / ("x" * 300)):
        pass


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_memory_that_there_is_not_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception,
) -> None:
    def full(job: Job) -> None:
        raise error

    monkeypatch.setattr(Job, "work", full)
    assert "expected what fits into memory; got more" in refused(capsys, "fit", "gmm", "--no-save")
