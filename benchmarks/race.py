"""Races: contenders that do the same work are timed side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.results import Ratio, Row

K = TypeVar("K")

#: Seconds that a turn takes at least. Shorter work is done several times over: what the contender before left behind, busily
#: waiting threads and other numbers in the cache, makes the first time take up to twice as long.
TURN = 1.0
#: Runs that a turn has at most.
MOST = 1000
#: Seconds before a turn, in which the threads that the contender before left waiting go to sleep: OpenBLAS's keep their cores
#: busy for a while, and whoever comes next then takes up to twice as long.
REST = 0.5

#: What a contender does: all of its work. What it comes to is a number, or what ``judge`` makes a number of.
Contender = Callable[[], Any]
#: What a peer's ratios should at least be, warm and cold; ``None``: no goal.
Goals = tuple[float | None, float | None]


@dataclass(frozen=True)
class Race:
    """Seconds of contenders that came to the same result, run in turn in one process.

    Attributes:
        cold: seconds of each contender's first run, which imports and compiles what the contender needs; or of fresh processes.
        warm: seconds of the later runs, (repeats,) each; the runs with the same index follow each other.
        values: the result of each contender, as a number.
    """

    cold: Mapping[str, float | tuple[float, ...]]
    warm: Mapping[str, tuple[float, ...]]
    values: Mapping[str, float]

    def ratio(self, peer: str, ours: str = "zoo") -> tuple[float, float, float]:
        """Return how many times as long ``peer`` takes as ``ours``: the median, smallest and largest ratio of paired runs."""
        found = Ratio.of(self.warm[peer], self.warm[ours])
        return found.median, found.low, found.high

    def rows(
        self, case: str, agrees: str, goals: Mapping[str, Goals], each: float = 1.0, unit: str = "s", **more: Any,
    ) -> list[Row]:
        """Return a row for each peer of the first contender.

        Args:
            case, agrees: see :class:`Row`.
            goals: the goals of each peer that has goals.
            each: the factor that converts the seconds of a warm run to ``unit``.
            more: other attributes of :class:`Row`.
        """
        ours, *peers = self.warm
        first = {name: seconds if isinstance(seconds, tuple) else (seconds,) for name, seconds in self.cold.items()}

        def row(peer: str) -> Row:
            pair = (ours, peer)
            warm, cold = goals.get(peer, (None, None))
            timed = all(name in first for name in pair)
            return Row(
                case, peer, {name: each * statistics.median(self.warm[name]) for name in pair},
                Ratio.of(self.warm[peer], self.warm[ours]), warm, agrees,
                Ratio.of(first[peer], first[ours]) if timed else None,
                {name: statistics.median(first[name]) for name in pair} if timed else {}, cold, unit=unit, **more)

        return [row(peer) for peer in peers]

    def to_dict(self) -> dict[str, Any]:
        """Return the race as plain data, with the ratios of every peer to the first contender."""
        ours, *peers = self.warm
        return {
            "cold": dict(self.cold), "warm": {name: list(seconds) for name, seconds in self.warm.items()},
            "values": dict(self.values), "ratios": {peer: self.ratio(peer, ours) for peer in peers}}


def race(
    contenders: Mapping[str, Contender], repeats: int = 5, tolerance: float = 1e-8, judge: Callable[[Any], float] = float,
) -> Race:
    """Run each contender once and check that the results agree; then run the contenders in turn, ``repeats`` times.

    Args:
        contenders: the contenders by name, the zoo first.
        repeats: the number of runs of each contender after the first run.
        tolerance: the largest relative difference between results.
        judge: turns the result of a contender into a number, outside the timed part.

    Raises:
        AssertionError: the results differ, so the contenders do different work and their times can't be compared.
    """
    cold: dict[str, float | tuple[float, ...]] = {}
    values: dict[str, float] = {}
    for name, work in contenders.items():
        cold[name], found = timed(work)
        values[name] = judge(found)
    low, high = min(values.values()), max(values.values())
    assert high - low <= tolerance * max(1.0, abs(low), abs(high)), f"expected contenders that agree; got {values}"
    return Race(cold, in_turn(contenders, repeats), values)


def in_turn(contenders: Mapping[K, Callable[[], Any]], repeats: int) -> dict[K, tuple[float, ...]]:
    """Return the seconds per run of each contender in each of ``repeats`` turns, (repeats,) for each contender.

    Each turn begins with a rest. A turn is a single run if the run takes at least :data:`TURN` seconds. Shorter work is run
    once without counting, then as many times as fill :data:`TURN`, and the mean of these runs counts.
    """
    seconds: dict[K, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            time.sleep(REST)
            total, runs = timed(work)[0], 1
            if total < TURN:
                total, runs = 0.0, 0
            while total < TURN and runs < MOST:
                total, runs = total + timed(work)[0], runs + 1
            seconds[name].append(total / runs)
    return {name: tuple(each) for name, each in seconds.items()}


def slope(long: tuple[float, ...], short: tuple[float, ...], more: int) -> tuple[float, ...]:
    """Return the seconds per step from pairs of runs, of which the long one takes ``more`` steps more than the short one.

    Raises:
        AssertionError: a long run took less time than the short run, because something else was running.

    >>> slope((3.0, 4.0), (1.0, 1.0), 2)
    (1.0, 1.5)
    """
    found = tuple((one - other) / more for one, other in zip(long, short, strict=True))
    assert min(found) > 0, f"expected longer runs to take longer; got {long} against {short}: measure when nothing else runs"
    return found


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that ``work`` took, and the result of ``work``."""
    begun = time.perf_counter()
    value = work()
    return time.perf_counter() - begun, value
