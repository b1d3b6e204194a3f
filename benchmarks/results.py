"""What a benchmark found, as plain data: rows of ratios, curves, tables, and the machine that it ran on."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """What a peer takes over what we take: the median over pairs of runs that follow each other, the least and the most."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
        """Return the ratio of runs in pairs.

        >>> Ratio.of([3.0, 3.0, 4.0], [1.0, 2.0, 1.0])
        Ratio(median=3.0, low=1.5, high=4.0)
        """
        pairs = [their / own for their, own in zip(theirs, ours, strict=True)]
        return cls(statistics.median(pairs), min(pairs), max(pairs))


@dataclass(frozen=True)
class Row:
    """One case against one peer.

    Attributes:
        case: what was done, to what.
        peer: who else did it.
        spent: what each contender took, ``{name: median}``, ours first, in ``unit``; ``cold`` the same of fresh processes.
        warm, cold: ratios of the peer to us; ``None`` where not measured.
        goal_warm, goal_cold: what the median should at least be; ``None``: no goal.
        at_least: the peer never got there, so its time is that of all it was given, and the ratio a lower bound.
        agrees: what was checked, before anything was timed, to be the same for both.
        note: what else a reader should know.
        unit: of ``spent``.
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
        """Whether every goal that was set is met; ``None`` where none was."""
        pairs = [(self.goal_warm, self.warm), (self.goal_cold, self.cold)]
        judged = [ratio is not None and ratio.median >= goal for goal, ratio in pairs if goal is not None]
        return all(judged) if judged else None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Row:
        """Return the row that ``data`` holds, as JSON gives it back."""
        ratios = {name: None if data[name] is None else Ratio(**data[name]) for name in ("warm", "cold")}
        return cls(**{**data, **ratios})


@dataclass(frozen=True)
class Curve:
    """ELBO against seconds of each contender: ``series[name]`` is (seconds, ELBO) pairs; ``target`` the ELBO to reach."""

    case: str
    target: float
    series: Mapping[str, Sequence[tuple[float, float]]]

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Curve:
        """Return the curve that ``data`` holds."""
        series = {name: [(float(s), float(e)) for s, e in points] for name, points in data["series"].items()}
        return cls(data["case"], data["target"], series)


@dataclass(frozen=True)
class Table:
    """Numbers that are no race: a title, column heads, and rows of text."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Result:
    """What one benchmark found.

    Attributes:
        rows: the races.
        curves: what is drawn.
        tables: what is tabled as it is.
        facts: anything else, as plain data.
        name, about, machine: which benchmark, what it times, and where; the runner fills them in.
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
    """Return a benchmark's result; what is plain data becomes the facts of one without rows."""
    return found if isinstance(found, Result) else Result(facts=found)
