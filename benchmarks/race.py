"""Contenders that do the same work, timed side by side: what benchmarks are made of."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: What a contender does: all of its work, and the number that it comes to, on which all must agree.
Contender = Callable[[], float]


@dataclass(frozen=True)
class Race:
    """Seconds of contenders that came to the same number, run in turn in one process.

    Attributes:
        cold: of each one's first run, in which it imports and compiles what it needs.
        warm: of the runs after it, (repeats,) each; the runs of one index follow each other.
        values: what each came to.
    """

    cold: Mapping[str, float]
    warm: Mapping[str, tuple[float, ...]]
    values: Mapping[str, float]

    def ratio(self, peer: str, ours: str = "zoo") -> tuple[float, float, float]:
        """Return how many times as long ``peer`` takes as ``ours``: the median over pairs of runs, the least and the most."""
        pairs = [theirs / own for theirs, own in zip(self.warm[peer], self.warm[ours], strict=True)]
        return statistics.median(pairs), min(pairs), max(pairs)

    def to_dict(self) -> dict[str, Any]:
        """Return the race as plain data, ratios of every peer to the first contender included."""
        ours, *peers = self.warm
        return {
            "cold": dict(self.cold), "warm": {name: list(seconds) for name, seconds in self.warm.items()},
            "values": dict(self.values), "ratios": {peer: self.ratio(peer, ours) for peer in peers}}


def race(contenders: Mapping[str, Contender], repeats: int = 5, tolerance: float = 1e-8) -> Race:
    """Run contenders once each and check that they agree; then ``repeats`` times in turn.

    Args:
        contenders: by name, ours first.
        repeats: of each, after the first.
        tolerance: relative, of the numbers they come to.

    Raises:
        AssertionError: if they do not do the same work: their times would not compare.
    """
    cold, values = {}, {}
    for name, work in contenders.items():
        cold[name], values[name] = _timed(work)
    low, high = min(values.values()), max(values.values())
    assert high - low <= tolerance * max(1.0, abs(low), abs(high)), f"expected contenders that agree; got {values}"
    warm: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            warm[name].append(_timed(work)[0])
    return Race(cold, {name: tuple(seconds) for name, seconds in warm.items()}, values)


def _timed(work: Contender) -> tuple[float, float]:
    begun = time.perf_counter()
    value = work()
    return time.perf_counter() - begun, value
