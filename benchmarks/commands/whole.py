"""The whole cost of a comparison: from a cold process to the printed table, now and before evaluations had a budget."""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import Ratio, Result, Row, Table
from zoo.errors import ZooError

#: The last commit at which evaluations took what they took.
BEFORE = "d56e6b6"

HIERARCHY = """
import torch, pyro, pyro.distributions as dist
import experiments

def model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 100.0))
    tau = pyro.sample("tau", dist.HalfCauchy(25.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(25.0))
    with pyro.plate("rows", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)

torch.manual_seed(0)
y = 2 + 1.5 * torch.randn(60) + torch.randn(60)
print(experiments.compare(model, y, ["mean_field", "full_rank"]))
"""


def _cli(*words: str) -> tuple[str, ...]:
    return ("-m", "experiments.cli", *words)


#: What is run, by name: Python's arguments, the goal of the ratio, and the number of runs.
CASES: Mapping[str, tuple[tuple[str, ...], float | None, int]] = {
    "eight schools, three guides": (
        _cli("compare", "eight_schools", "-g", "mean_field", "-g", "full_rank", "-g", "low_rank"), 3.0, 5),
    "60 rows, centred, wide priors": (("-c", HIERARCHY), 5.0, 5),
    "gmm on faithful": (_cli("compare", "gmm", "--data", "faithful"), None, 5),
    "VAE on digits, five guides": (
        _cli("compare", "vae", "--data", "digits", *(
            word for guide in ("mean_field:encoder", "full_rank:encoder", "flow:encoder", "mean_field:semi", "mean_field")
            for word in ("-g", guide))), 1.5, 1),
}
#: What the evidence of each table says, beside what it took.
EVIDENCE = ("log p(x | θ)", "log normaliser")


@dataclass(frozen=True)
class Run:
    """One run: seconds to the first sign on a terminal, to the last line of the table, and to the end; what log p(x) is."""

    first: float
    table: float
    end: float
    evidence: str


def whole_compare() -> Result:
    """Run whole comparisons in fresh processes, in turn with those of the commit before evaluations had a budget: seconds to
    the last line of the printed table, and in the table below to what a terminal shows first. The last column has the interval
    for log p(x | θ) that either came to.
    """
    rows, table = [], []
    with tempfile.TemporaryDirectory() as folder, _checkout(Path(folder) / "before") as before:
        for case, (words, goal, repeats) in CASES.items():
            runs: dict[str, list[Run]] = {"zoo": [], BEFORE: []}
            for _ in range(repeats):
                runs["zoo"].append(_run(words, Path.cwd(), folder))
                runs[BEFORE].append(_run(words, before, folder))
            ours, theirs = ([run.table for run in runs[name]] for name in ("zoo", BEFORE))
            spent = {name: statistics.median(run.table for run in found) for name, found in runs.items()}
            rows.append(Row(case, BEFORE, spent, Ratio.of(theirs, ours), goal, "data, guides and seed"))
            table += [[case, name, *_medians(found), found[-1].evidence] for name, found in runs.items()]
    heads = ["comparison", "commit", "first line, s", "table, s", "end, s", "evidence"]
    return Result(rows, tables=[Table("From a cold process", heads, table)])


def _medians(runs: Sequence[Run]) -> list[str]:
    return [f"{statistics.median(getattr(run, part) for run in runs):.1f}" for part in ("first", "table", "end")]


@contextmanager
def _checkout(path: Path) -> Iterator[Path]:
    """Give a working tree of the commit before.

    Raises:
        ZooError: git has no such commit.
    """
    add = ["git", "worktree", "add", "--detach", str(path), BEFORE]
    made = subprocess.run(add, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ZooError(f"expected a clone with commit {BEFORE}; got none: {made.stderr.strip().splitlines()[-1]}")
    try:
        yield path
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(path)], check=True, capture_output=True)


def _run(words: tuple[str, ...], root: Path, folder: str) -> Run:
    """Run Python with ``words`` on the code in ``root``, and read the clock at each line that it prints."""
    env = {**os.environ, "PYTHONPATH": str(root), "ZOO_RUNS": folder}
    master, slave = pty.openpty()
    signs: list[float] = []
    begun = time.perf_counter()
    with subprocess.Popen(
            [sys.executable, *words], cwd=root, env=env, stdout=subprocess.PIPE, stderr=slave, text=True) as child:
        os.close(slave)
        reader = threading.Thread(target=_watch, args=(master, begun, signs))
        reader.start()
        assert child.stdout is not None, "it is a pipe"
        lines = [(time.perf_counter() - begun, line) for line in child.stdout]
    end = time.perf_counter() - begun
    reader.join()
    os.close(master)
    if child.returncode or not lines:
        raise ZooError(f"expected a table from {' '.join(words)[:80]}; got exit code {child.returncode}")
    said = next((line.split(" nats")[0] for _, line in lines if line.startswith(EVIDENCE)), "")
    return Run(min([*signs, lines[0][0]]), lines[-1][0], end, said)


def _watch(terminal: int, begun: float, signs: list[float]) -> None:
    """Note when anything comes to a terminal, until it is closed."""
    with suppress(OSError):
        while os.read(terminal, 65536):
            signs.append(time.perf_counter() - begun)
