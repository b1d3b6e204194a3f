"""Fits that two real processes share come to what one process comes to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import experiments
import zoo
from tests import ROOT
from tests.experiments.inference.sharing import CASES, pictures, rows, told

pytestmark = pytest.mark.xdist_group("sharing")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "tests.experiments.inference.sharing", str(folder)], capture_output=True, text=True, cwd=ROOT,
        timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_are_as_one(case: str, shared: Path) -> None:
    alone = told(CASES[case](False))
    first, second = (load_file(shared / f"{case}-{rank}.safetensors") for rank in range(2))
    assert set(first) == set(alone)
    for key, value in alone.items():
        assert torch.equal(first[key], second[key]), key  # they never come apart
        torch.testing.assert_close(first[key], value, rtol=1e-10, atol=1e-10, msg=lambda text, key=key: f"{key}: {text}")


def test_sharing_needs_a_group() -> None:
    with pytest.raises(zoo.ZooError, match="expected processes to share the fit with shard=True; got none; start it with"):
        experiments.fit(zoo.build("gmm", rows()), "exact", rows(), shard=True)


def test_what_is_drawn_for_dropout_differs_between_processes() -> None:
    from experiments.runtime.processes import Processes

    with zoo.seeded(3):
        drawn = []
        for rank in range(2):
            with Processes(rank, 2).apart():
                drawn.append(torch.rand(3))
        after = torch.rand(3)
    with zoo.seeded(3):
        assert torch.equal(after, torch.rand(3))
    assert not torch.equal(*drawn)


def test_shares_hold_every_unit_once() -> None:
    from experiments.runtime.processes import Processes

    for units in (1, 2, 7, 300):
        found = [i for rank in range(3) for i in range(units)[Processes(rank, 3).share(units)]]
        assert found == list(range(units))
    assert pictures().shape[0] == 300
