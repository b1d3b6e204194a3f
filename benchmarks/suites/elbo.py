"""Time to the best ELBO of a normal family, against NumPyro and stock Pyro."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.contenders import LIBRARIES, Task, calls, cold_in_turn, processes
from benchmarks.race import Race, in_turn
from benchmarks.results import Curve, Result, Row
from benchmarks.sides import pyro_elbo, zoo_elbo
from benchmarks.suites.normals import FAMILIES, FEW, GIVEN, Case, Judge, cases

#: Nats below the best known ELBO at which a guide has got there.
WITHIN = 0.1
#: What peers may choose from: rate of Adam, horizon over which it falls to a hundredth (0: constant), draws a step. Those that
#: often win come first: they cut the others short.
NUMPYRO = [
    *itertools.product((0.1, 0.03), (1_000, 3_000, 10_000), (16, 1)),
    *itertools.product((0.03, 0.1, 0.01, 0.3, 0.003), (0,), (16, 4, 1))]
PYRO = [(0.1, 3_000, 1), (0.03, 0, 1), (0.03, 10_000, 1), (0.01, 0, 1)]
#: Steps and seconds that a peer is given at most, for each choice.
LIMITS = {"NumPyro": (50_000, 60.0), "Pyro": (20_000, 40.0)}
GOALS = {"NumPyro": (5.0, 20.0), "Pyro": (100.0, None)}
#: The run that seeks the best ELBO: NumPyro's longest.
LONG = (0.03, 50_000, 16)
COLD = 3


@dataclass(frozen=True)
class Reach:
    """The fastest run of a peer to the target ELBO.

    ``choice`` has the rate of Adam, the horizon and the draws per step; ``seconds`` and ``steps`` are those to the target;
    ``way`` has (seconds, ELBO) pairs. If no choice reached the target, ``reached`` is false, and the other attributes describe
    the whole run of the choice with the highest last ELBO.
    """

    choice: tuple[float, int, int]
    seconds: float
    steps: int
    reached: bool
    way: tuple[tuple[float, float], ...]


def time_to_elbo(repeats: int = 5) -> Result:
    """Time from data in memory to a normal guide within 0.1 nat of the best known ELBO of its family (`mean_field`,
    `full_rank`), in float64.

    The time of each contender ends at the contender's first state within 0.1 nat; a user would not know that this state is
    reached. The zoo runs `experiments.fit` with its defaults. The peers get the best choice from a grid of rates of Adam
    (constant, or falling to a hundredth over a horizon), horizons and draws per step. NumPyro runs `svi.init` and one jitted
    `fori_loop` of `svi.update`. Pyro runs `SVI.step` with validation off and on as many threads as suit the size of the data.

    All contenders start at the prior's median. The mixture is an exception, because its posterior has many modes: there, all
    contenders start at the zoo's k-means clusters. For a logistic regression, the zoo's guides start at the posterior's mode,
    found by Newton's method, and the zoo's time includes this search. The zoo also finds from the program that each observation
    depends on the coefficients through one number only, and integrates over this number. So the zoo's ELBO takes draws only
    for the prior there, while the peers estimate the same ELBO from draws.

    Warm runs start when the model and the guide are built and NumPyro's loop is compiled. A second row of each case compares
    the same peers with everything that a user of the zoo waits for: building the model and the guide anew, finding the start,
    and fitting until the zoo's own rule stops the fit.

    Cold runs are the first call of a fresh process that has imported its library, to the same state or, in the second row, to
    the zoo's own end. The time of a cold run includes building, compilation and imports of whatever loads on first use, and for
    the zoo the search for the start. The notes give the times of whole processes. The figure shows the zoo's first fit of a
    model, which includes all of these costs except imports.

    The best known ELBO is the highest of all contenders' long runs. The same function computes every ELBO, outside the timed
    part, from 16,384 quasi-random draws. All contenders use the same coordinates and densities, so their families are the same,
    too.
    """
    parts = [measure(case, family, repeats) for case in cases() for family in FAMILIES]
    return Result(
        [row for part in parts for row in part.rows], [curve for part in parts for curve in part.curves],
        facts={key: value for part in parts for key, value in part.facts.items()})


def measure(case: Case, family: str, repeats: int) -> Result:
    """Measure one family on one case."""
    label = f"{case.name}, {family}"
    judge = Judge(case)
    apart = _check(case, judge)
    given = {"model": case.model, "family": family}
    ours = Task("benchmarks.sides.zoo_elbo:run", case.arrays, given, LIBRARIES["zoo"])
    best, found = _best(case, family, judge, ours)
    target = best - WITHIN
    states = zoo_elbo.trace(case.arrays, **given)
    way = [(seconds, judge(state, FEW)) for seconds, state in states]
    step = next((i for i, (_, state) in enumerate(states, 1) if way[i - 1][1] >= target and judge(state) >= target), None)
    peers = {"NumPyro": _numpyro(case, family, judge, target), "Pyro": _pyro(case, family, judge, target)}
    tasks = {name: _task(name, case, given, reach) for name, reach in peers.items()}
    if step is not None:
        options = {**given, "step": step, "given": case.model in GIVEN}
        soon = Task("benchmarks.sides.zoo_elbo:reach", case.arrays, options, LIBRARIES["zoo"])
        assert judge(soon()) >= target, f"expected {label} to be at the target after {step} steps again"
        tasks |= {"zoo": soon, "whole": ours}
    agrees = f"log p(x, z) at 5 points in unconstrained coordinates, to {apart:.0e} relative"
    note = f"best ELBO {best:.3f}; zoo {step or 'no'} steps to the target, ends {best - found:.3f} below the best ELBO"
    rows = [row for name, reach in peers.items() for row in _rows(label, tasks, name, reach, repeats, agrees, note)]
    series = {"zoo": way, **{f"{name}{_named(reach)}": reach.way for name, reach in peers.items()}}
    return Result(rows, [Curve(label, target, series)], facts={label: {
        "best": best, "zoo": found, **{name: replace(reach, way=()).__dict__ for name, reach in peers.items()}}})


def _check(case: Case, judge: Judge) -> float:
    """Return the relative difference between NumPyro's and the zoo's log joint; raise if the densities differ."""
    from benchmarks.sides import numpyro_elbo

    ours, theirs = judge.log_joint(case.arrays["points"]), numpyro_elbo.log_joint(case.arrays, case.model)
    apart = float(np.max(np.abs(ours - theirs) / np.abs(ours)))
    assert apart < 1e-8, f"expected the same log joint of {case.name} in the same coordinates; got {ours} and {theirs}"
    return apart


def _best(case: Case, family: str, judge: Judge, ours: Task) -> tuple[float, float]:
    """Return the best known ELBO of a family, and the ELBO of the zoo's fit with its defaults."""
    from benchmarks.sides import numpyro_elbo

    fitted = judge(ours())
    long = judge(ours.having(method="fixed_draws", draws=4096, steps=3000)())
    *_, (_, _, last) = numpyro_elbo.trace(case.arrays, case.model, family, LONG, [LIMITS["NumPyro"][0]])
    return max(fitted, long, judge(last)), fitted


def _numpyro(case: Case, family: str, judge: Judge, target: float) -> Reach:
    from benchmarks.sides import numpyro_elbo

    def trace(choice: tuple[float, int, int], stops: Sequence[int]) -> Iterator[tuple[float, int, Any]]:
        return numpyro_elbo.trace(case.arrays, case.model, family, choice, stops)

    return seek(NUMPYRO, trace, judge, target, *LIMITS["NumPyro"])


def _pyro(case: Case, family: str, judge: Judge, target: float) -> Reach:
    def trace(choice: tuple[float, int, int], stops: Sequence[int]) -> Iterator[tuple[float, int, Any]]:
        return pyro_elbo.trace(case.arrays, case.model, family, choice, stops, _threads(case))

    return seek(PYRO, trace, judge, target, *LIMITS["Pyro"])


def seek(
    choices: Iterable[tuple[float, int, int]], trace: Any, judge: Any, target: float, most_steps: int, most_seconds: float,
) -> Reach:
    """Return the run of the choice that reaches ``target`` soonest; a run that can't be the soonest any more is stopped.

    Args:
        choices: the choices to try.
        trace: (choice, steps to stop at) → (seconds, step, guide) of each stop.
        judge: guide (and draws) → ELBO. A few draws find a stop at the target; then all draws must confirm the stop.
        target: the target ELBO, in nats.
        most_steps, most_seconds: the limits for each choice.
    """
    best: Reach | None = None
    for choice in choices:
        way: list[tuple[float, float]] = []
        limit = best.seconds if best is not None and best.reached else most_seconds
        for seconds, step, state in trace(choice, stops(most_steps)):  # noqa: B007
            value = judge(state, FEW)
            way.append((seconds, value))
            reached = value >= target and judge(state) >= target
            if reached or seconds > limit:
                break
        found = Reach(choice, seconds, step, reached, tuple(way))
        if best is None or (found.reached, -found.seconds if reached else value) > _order(best):
            best = found
    assert best is not None, "there are choices"
    return best


def _order(reach: Reach) -> tuple[bool, float]:
    """Return the rank of a run: runs that reached the target come first, by seconds; the others rank by their last ELBO."""
    return reach.reached, -reach.seconds if reach.reached else reach.way[-1][1]


def stops(most: int) -> list[int]:
    """Return the steps at which a run is judged: each is a fifteenth larger than the one before, up to ``most``.

    >>> stops(14), len(stops(50_000))
    ([10, 11, 12, 13, 14], 134)
    """
    found = [10]
    while found[-1] < most:
        found.append(min(most, max(found[-1] + 1, round(16 / 15 * found[-1]))))
    return found


def _task(name: str, case: Case, given: Mapping[str, Any], reach: Reach) -> Task:
    threads = {"threads": _threads(case)} if name == "Pyro" else {}
    options = {**given, "choice": reach.choice, "steps": reach.steps, **threads}
    return Task(f"benchmarks.sides.{name.lower()}_elbo:run", case.arrays, options, LIBRARIES[name])


def _threads(case: Case) -> int:
    """Return the number of threads that suits torch's operations on a case, by the zoo's own rule."""
    return 1 if case.numbers < 2**16 else 2


def _rows(
    label: str, tasks: Mapping[str, Task], peer: str, reach: Reach, repeats: int, agrees: str, note: str,
) -> list[Row]:
    """Return the rows of one peer: against the zoo's first state at the target, and against the zoo's whole fit."""
    note = f"{note}; {peer}{_named(reach)}, {reach.steps:,} steps, its loop alone {reach.seconds:.2g} s"
    if "whole" not in tasks:
        row = Row(label, peer, {peer: reach.seconds}, None, GOALS[peer][0], agrees, goal_cold=GOALS[peer][1])
        return [replace(row, note=f"the zoo did not get there; {note}")]
    ours = {name: tasks[name] for name in ("zoo", "whole")}
    running = {**ours, peer: tasks[peer]} if reach.reached else ours
    seconds, cold = in_turn(running, repeats), cold_in_turn(running, COLD) if reach.reached else {}
    if reach.reached:
        note += f"; {processes({name: cold[name] for name in ('zoo', peer)})}"
    else:  # it never got there: all that it was given, once
        seconds = {**seconds, peer: (reach.seconds,) * repeats}
    rows = []
    for name, case, goals in (("zoo", label, GOALS), ("whole", f"{label}: whole fit", {})):
        pair = {"zoo": name, peer: peer}
        called = {shown: calls(cold)[each] for shown, each in pair.items()} if cold else {}
        race = Race(called, {shown: seconds[each] for shown, each in pair.items()}, {})
        rows += race.rows(case, agrees, goals, at_least=not reach.reached, note="" if name == "whole" else note)
    return rows


def _named(reach: Reach) -> str:
    rate, horizon, particles = reach.choice
    falling = f", falling over {horizon:,} steps" if horizon else ""
    return f" (rate {rate:g}{falling}, {particles} draw{'s' if particles > 1 else ''})"
