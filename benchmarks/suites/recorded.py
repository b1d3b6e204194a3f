"""A step of svi by Python, by its recorded operations, and compiled."""

from __future__ import annotations

import copy
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import experiments
import zoo
from benchmarks.race import Race
from benchmarks.results import Result, Row

#: How a step is run, ours first: options of the fit.
WAYS: Mapping[str, Mapping[str, Any]] = {
    "compiled": {"pure": True, "compile": True}, "Python": {"pure": False}, "recorded": {"pure": True}}
#: Processes that start with an empty cache, and with the one that these left.
STARTS = 2


@dataclass(frozen=True)
class Case:
    """A model and a guide whose svi steps are timed, the number of steps, and the goal for compiled steps.

    Attributes:
        model, guide: the name of a registered model, and the guide as text.
        data: name, kind and binarisation of the data.
        steps: the number of steps in a run. The second half is timed: by then, recorded steps were tried, and are used where
            they are faster.
        goal: how many times as long as a compiled step a step by Python should take.
    """

    model: str
    guide: str
    data: tuple[str, str | None, str | None]
    steps: int
    goal: float

    def build(self) -> tuple[Any, Any]:
        """Return the model and the data."""
        name, kind, binarise = self.data
        x: Any = zoo.dataset(name, kind, binarise=binarise).x
        return zoo.build(self.model, x), x


CASES = (
    Case("vae", "mean_field:encoder", ("digits", "images", "threshold"), 800, 1.8),
    Case("vae", "flow:encoder", ("digits", "images", "threshold"), 200, 2.0),
    Case("eight_schools", "full_rank", ("eight_schools", None, None), 2_000, 4.0))


def recorded(repeats: int = 3) -> Result:
    """Time a whole step of svi in `experiments.fit` in three ways: by Python (`pure=False`), by recorded operations (the
    default of registered models), and through Inductor (`compile=True`).

    The seconds of a step are the median over the second half of a run, from the history of the fit; ratios compare runs that
    follow each other. All three ways reach the same ELBO except for rounding. The cold row times two fresh processes that
    compile the step and take 20 steps: the first process has an empty cache of Inductor's on disk, the second process has the
    cache that the first process left.
    """
    rows = [row for case in CASES for row in _case(case, repeats)]
    return Result([*rows, _start(CASES[0])])


def _case(case: Case, repeats: int) -> list[Row]:
    model, x = case.build()
    warm: dict[str, list[float]] = {way: [] for way in WAYS}
    ends: dict[str, float] = {}
    for _ in range(repeats):
        for way, options in WAYS.items():
            done = _fit(copy.deepcopy(model), case.guide, x, case.steps, options)
            stamps = [seconds for *_, seconds in done.history][case.steps // 2 :]
            warm[way].append(statistics.median(b - a for a, b in itertools.pairwise(stamps)))
            ends[way] = done.history[0][1]
    apart = max(ends.values()) / min(ends.values()) - 1
    assert abs(apart) < 1e-4, f"expected the same first ELBO either way; got {ends}"
    goals = {"Python": (case.goal, None)}
    agrees = f"the ELBO of the first step, to {abs(apart):.0e} relative"
    return Race({}, {way: tuple(seconds) for way, seconds in warm.items()}, ends).rows(
        f"{case.model}, {case.guide}", agrees, goals, 1e3, "ms a step")


def _fit(model: Any, guide: Any, x: Any, steps: int, options: Mapping[str, Any]) -> experiments.Fit:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler's own
        return experiments.fit(model, guide, x, method="svi", steps=steps, progress=False, **options)


def _start(case: Case) -> Row:
    """Time fresh processes, first with an empty cache and then with a filled cache."""
    seconds: list[list[float]] = []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as cache:
            seconds.append([_process(cache) for _ in range(2)])
    first, second = (tuple(each) for each in zip(*seconds, strict=True))
    [row] = Race({}, {"second process": second, "first process": first}, {}).rows(
        f"{case.model}, {case.guide}: compiling and 20 steps", "", {"first process": (3.0, None)})
    return row


def _process(cache: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.suites.recorded"], env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
        capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":  # what a fresh process does: the seconds of the fit, imports of the zoo left out
    _model, _x = CASES[0].build()
    print(_fit(_model, CASES[0].guide, _x, 20, WAYS["compiled"]).seconds)
