"""A regression whose rows share weights, by minibatches of rows of a file, beside all rows at a time and NumPyro."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import Curve, Result, Table

#: Rows and columns of the table, its target not counted, and rows that are read at a time.
ROWS, COLUMNS, BLOCK = 1_000_000, 30, 50_000
#: Nats below the best ELBO at which a fit has got there; nodes of the quadrature.
WITHIN, NODES = 1.0, 16


class Judge:
    """The exact ELBO of normals of independent weights, N(loc, scale²), given a table in a file.

    With t_i = x_i·w, which is normal under q, the ELBO is Σ_i (y_i E t_i − E log(1 + exp t_i)) − KL(q ‖ N(0, I)): sums of
    integrals of one dimension, by Gauss–Hermite quadrature, in float64.
    """

    def __init__(self, path: Path):
        self.path = path
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self.nodes, self.weights = nodes, weights / weights.sum()

    def __call__(self, loc: np.ndarray, scale: np.ndarray) -> float:
        """Return the ELBO, in nats."""
        loc, scale = loc.astype(np.float64), scale.astype(np.float64)
        total = 0.0
        for x, y in self._blocks():
            t = self._points(x, loc, scale)
            total += float(y @ (x @ loc) - (np.logaddexp(0.0, t) @ self.weights).sum())
        return total - float((0.5 * (loc**2 + scale**2 - 1) - np.log(scale)).sum())

    def best(self, steps: int = 8) -> tuple[np.ndarray, np.ndarray]:
        """Return loc and scale of the highest ELBO, by Newton's steps of loc and the fixed point of scale in turn.

        Raises:
            AssertionError: the last step still moved loc by more than a thousandth of scale.
        """
        loc, scale, moved = np.zeros(COLUMNS), np.full(COLUMNS, 0.01), np.inf
        for _ in range(steps):
            gradient, curvature = -loc, np.eye(COLUMNS)
            for x, y in self._blocks():
                p = 1 / (1 + np.exp(-self._points(x, loc, scale)))
                gradient = gradient + x.T @ (y - p @ self.weights)
                curvature = curvature + x.T @ (x * ((p * (1 - p)) @ self.weights)[:, None])
            step = np.linalg.solve(curvature, gradient)
            loc, scale = loc + step, np.diag(curvature) ** -0.5
            moved = float(np.abs(step / scale).max())
            if moved < 1e-3:
                break
        assert moved < 1e-3, f"expected Newton's steps to settle; the last one was {moved:.1e} scales"
        return loc, scale

    def _points(self, x: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
        points: np.ndarray = (x @ loc)[:, None] + np.sqrt(x**2 @ scale**2)[:, None] * self.nodes
        return points

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        table = np.load(self.path, mmap_mode="r")
        for start in range(0, len(table), BLOCK):
            block = table[start : start + BLOCK].astype(np.float64)
            yield block[:, :-1], block[:, -1]


def write(path: Path, rows: int = ROWS) -> None:
    """Write a float32 table of normal columns, and a last one of targets given weights N(0, 1/4), a block at a time."""
    generator = np.random.default_rng(0)
    weights = 0.5 * generator.normal(size=COLUMNS)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, COLUMNS + 1))
    for start in range(0, rows, BLOCK):
        x = generator.normal(size=(min(BLOCK, rows - start), COLUMNS))
        file[start : start + len(x), :-1] = x
        file[start : start + len(x), -1] = generator.random(len(x)) < 1 / (1 + np.exp(-x @ weights))
    file.flush()


@dataclass(frozen=True)
class Contender:
    """A fit in a process of its own: its script, options, and the steps from one record of its state to the next."""

    side: str
    options: Mapping[str, Any]
    every: int
    limit: float

    def run(self, path: Path) -> Mapping[str, Any]:
        """Return the arrays that the process wrote."""
        out = path.with_name("way.npz")
        given = [str(path), str(out), json.dumps(self.options), str(self.every), str(self.limit)]
        subprocess.run([sys.executable, "-m", f"benchmarks.sides.{self.side}", *given], capture_output=True, check=True)
        with np.load(out) as found:
            return dict(found)


#: Rows and draws of a step, and the rate of Adam at the first step, which a cosine takes to a hundredth.
TUNED = {"batch_size": 8192, "draws": 4, "learning_rate": 0.01, "init_scale": 0.01}
#: The contenders, those with minibatches each with about the fewest steps that come within 1 nat. Those that do not end by
#: themselves within their limit, in seconds, are cut off.
CONTENDERS = {
    "zoo, minibatches": Contender("zoo_rows", {"method": "svi", **TUNED, "steps": 6000}, 100, 120),
    "zoo, all rows": Contender("zoo_rows", {}, 1, 120),
    "NumPyro, shuffled rows": Contender("numpyro_rows", {**TUNED, "steps": 7320, "rows": "shuffled"}, 122, 120),
    "NumPyro, plate": Contender("numpyro_rows", {**TUNED, "steps": 7320, "rows": "plate", "draws": 1}, 20, 120)}


def large_regression() -> Result:
    """Fit a mean-field normal to the 30 weights of a logistic regression on 1,000,000 rows, a float32 table of 124 MB on disk,
    each contender in a fresh process: minibatches of rows of the mapped file by the zoo's `svi`, all rows at a time by its
    default method, and minibatches of rows in memory by NumPyro's `AutoNormal`, jitted, of rows shuffled before each pass, or
    drawn by a subsampling plate.

    Minibatches have 8,192 rows and 4 draws of the weights; Adam's rate falls from 0.01 by a cosine to a hundredth over 6,000
    steps of the zoo and 7,320 of NumPyro, about the fewest that come within 1 nat of those tried (2,500 to 20,000, and rates of
    0.003 to 0.01). The subsampling plate draws other rows for each draw of the weights, in a loop over rows, so it has one draw
    a step. Minibatches begin at a scale of 0.01, all rows at the zoo's own start.

    The table has the seconds after imports until a recorded state lies within 1 nat of the best ELBO, what compiling and
    reading the file took included, and the peak of resident memory, which includes imports and pages of the file. A fit that is
    not done within its limit is cut off. The ELBO of each recorded state, and the best one, come from Gauss–Hermite quadrature
    on all rows, outside the timed part.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        write(path)
        judge = Judge(path)
        best = judge(*judge.best())
        table, series = [], {}
        for name, contender in CONTENDERS.items():
            way = contender.run(path)
            short = [(float(way["seconds"][i]), best - judge(way["loc"][i], way["scale"][i])) for i in _some(way)]
            table.append(_row(name, way, short))
            series[name] = [(seconds, best - nats) for seconds, nats in short]
    heads = ["contender", "seconds to 1 nat", "seconds in all", "nats short at the end", "peak memory"]
    case = f"logistic regression, {ROWS:,} rows"
    return Result(curves=[Curve(case, best - WITHIN, series)], tables=[Table(case, heads, table)], facts={"best": best})


def _some(way: Mapping[str, Any], most: int = 12) -> list[int]:
    """Return the records that are judged: at most ``most``, evenly spaced, the last among them."""
    count = len(way["seconds"])
    return sorted({round(i) for i in np.linspace(0, count - 1, min(most, count))})


def _row(name: str, way: Mapping[str, Any], short: list[tuple[float, float]]) -> list[str]:
    """Return a row of the table, given the seconds and the nats below the best ELBO of each record."""
    there = next((f"{seconds:.1f}" for seconds, nats in short if nats <= WITHIN), "not reached")
    return [name, there, f"{float(way['total']):.1f}, {way['end']}", f"{short[-1][1]:.3g}", f"{float(way['peak']):,.0f} MB"]
