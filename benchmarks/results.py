"""The result of a benchmark as plain data: rows of ratios, curves, tables, and a description of the machine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """The ratio of a peer's time to the zoo's: the median, smallest and largest ratio of runs that follow each other."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
        """Return the ratio of paired runs.

        >>> Ratio.of([3.0, 3.0, 4.0], [1.0, 2.0, 1.0])
        Ratio(median=3.0, low=1.5, high=4.0)
        """
        pairs = [their / own for their, own in zip(theirs, ours, strict=True)]
        return cls(statistics.median(pairs), min(pairs), max(pairs))


@dataclass(frozen=True)
class Row:
    """The row of one case and one peer in a result.

    Attributes:
        case: the work and its data.
        peer: the name of the peer.
        spent: the median of each contender, ``{name: median}``, the zoo first, in ``unit``; ``spent_cold`` are the medians of
            fresh processes, in seconds.
        warm, cold: ratios of the peer's time to the zoo's; ``None``: not measured.
        goal_warm, goal_cold: the smallest median ratio that meets the goal; ``None``: no goal.
        at_least: whether the peer never reached the target: its time is then the whole time that it was given, and the ratio is
            a lower bound.
        agrees: what was checked to be the same for both contenders before anything was timed.
        note: further information for the reader.
        unit: the unit of ``spent``.
    """

    case: str
    peer: str
    spent: Mapping[str, float]
    warm: Ratio | None
    goal_warm: float | None
    agrees: str
    cold: Ratio | None = None
    spent_cold: Mapping[str, float] = field(default_factory=dict)
    goal_cold: float | None = None
    at_least: bool = False
    note: str = ""
    unit: str = "s"

    @property
    def met(self) -> bool | None:
        """Whether all goals are met; ``None`` if there is no goal."""
        pairs = [(self.goal_warm, self.warm), (self.goal_cold, self.cold)]
        judged = [ratio is not None and ratio.median >= goal for goal, ratio in pairs if goal is not None]
        return all(judged) if judged else None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Row:
        """Return the row in ``data``, which was read from JSON."""
        ratios = {name: None if data[name] is None else Ratio(**data[name]) for name in ("warm", "cold")}
        return cls(**{**data, **ratios})


@dataclass(frozen=True)
class Curve:
    """The ELBO of each contender over time: ``series[name]`` has (seconds, ELBO) pairs; ``target`` is the ELBO to reach."""

    case: str
    target: float
    series: Mapping[str, Sequence[tuple[float, float]]]

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Curve:
        """Return the curve in ``data``, which was read from JSON."""
        series = {name: [(float(s), float(e)) for s, e in points] for name, points in data["series"].items()}
        return cls(data["case"], data["target"], series)


@dataclass(frozen=True)
class Table:
    """A table of numbers without a ratio to a peer: a title, column heads, and rows of text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Result:
    """The result of one benchmark.

    Attributes:
        rows: the rows of the races.
        curves: the curves of the figure.
        tables: tables that are shown as they are.
        facts: anything else, as plain data.
        name, about, machine: the name of the benchmark, its description, and the machine; the runner fills in all three.
    """

    rows: Sequence[Row] = ()
    curves: Sequence[Curve] = ()
    tables: Sequence[Table] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    about: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the result as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Result:
        """Return the result that :meth:`write` wrote."""
        data = json.loads(path.read_text())
        return cls(
            [Row.read(row) for row in data["rows"]], [Curve.read(curve) for curve in data["curves"]],
            [Table(**table) for table in data["tables"]], data["facts"], data["name"], data["about"], data["machine"])


def result_of(found: Result | Mapping[str, Any]) -> Result:
    """Return a benchmark's result; plain data becomes the ``facts`` of a result without rows."""
    return found if isinstance(found, Result) else Result(facts=found)
