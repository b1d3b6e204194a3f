"""The record of a run on disk, as plain data for reports and lists."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from experiments.fits.metrics import read_metrics
from experiments.reporting.shapes import TableShape, UnitsShape
from experiments.runtime.files import whole
from experiments.runtime.toml import read_toml
from zoo.errors import ZooError

#: How a run may stand. ``unfinished``: under way, killed, or interrupted; it can be resumed.
STATES = ("done", "failed", "unfinished")


@dataclass(frozen=True)
class Record:
    """The content of a run directory.

    Attributes:
        path: the directory.
        state: one of :data:`STATES`.
        error: of a failed run, what went wrong, in one line.
        spec: spec.toml: what was asked for, and under ``record`` with what it was run (checksum of the data, versions, commit).
        comparison: comparison.json, as ``--json`` prints it; ``None`` where the run has not come to it.
        metrics: the rows of metrics.jsonl.
        summary: the posterior's summary, a row a variable: ``variable``, ``mean``, ``sd``, ``lower``, ``upper`` (94 %).
        units: the posterior's summaries over more than ten units, as :func:`experiments.reporting.units.unit_summaries` makes.
        figures: the figures' SVG files by name.
    """

    path: Path
    state: str
    spec: dict[str, Any]
    error: str = ""
    comparison: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list, repr=False)
    summary: list[dict[str, Any]] = field(default_factory=list, repr=False)
    units: list[dict[str, Any]] = field(default_factory=list, repr=False)
    figures: dict[str, Path] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.path.name


def state_of(path: Path) -> tuple[str, str]:
    """Return how the run in ``path`` stands, see :data:`STATES`, and what went wrong if it failed."""
    try:
        raw = json.loads((path / "status.json").read_bytes())
        return (str(raw["state"]), str(raw["error"])) if raw["state"] in ("done", "failed") else ("unfinished", "")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "unfinished", ""


def read(path: Path) -> Record:
    """Read what a run directory holds, as plain data, for lists and reports. What is not there yet is empty.

    Raises:
        ZooError: a file in it that can't be read.
    """
    spec = read_toml(path / "spec.toml")
    state, error = state_of(path)
    comparison = read_comparison(path / "comparison.json")
    summary = _summary(path / "summary.csv")
    units = (_checked(path / "units.json", UnitsShape, "summaries over units") or {"units": []})["units"]
    figures = {file.stem: file for file in sorted((path / "figures").glob("*.svg"))}
    return Record(path, state, spec, error, comparison, read_metrics(path / "metrics.jsonl"), summary, units, figures)


def settle(path: Path, state: str, error: str = "") -> None:
    """Write down how the run in ``path`` ended. That it failed for want of space is not worth another error."""
    try:
        whole(path / "status.json", json.dumps({"state": state, "error": " ".join(error.split())[:2000]}, ensure_ascii=False))
    except ZooError:
        if state == "done":
            raise


def find_runs(path: Path) -> list[Path]:
    """Return the run directories in ``path``: itself, or those below it that hold a spec.toml, oldest first."""
    if (path / "spec.toml").exists():
        return [path]
    found = [file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/spec.toml")]
    return sorted(found, key=lambda p: ((p / "spec.toml").stat().st_mtime, p))


def read_comparison(path: Path) -> dict[str, Any] | None:
    """Return a run's table as plain data, as :meth:`Comparison.to_dict` made it; ``None`` where there is no file.

    Raises:
        ZooError: if the file can't be read, or lacks what a table has.
    """
    return _checked(path, TableShape, "a comparison's table")


def _checked(path: Path, shape: type[BaseModel], what: str) -> dict[str, Any] | None:
    """Return what a JSON file holds, if it is of a ``shape``; ``None`` where there is no file."""
    found = read_json(path)
    if found is None:
        return None
    try:
        shape.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ZooError(f"expected {what} in {path}; got {key}: {first['msg'].lower()}; remove it") from None
    return found


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds, a table; ``None`` where there is no file.

    Raises:
        ZooError: if it can't be read, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ZooError(f"expected {path} as JSON; got a file that can't be read ({type(error).__name__}); remove it") from None
    if not isinstance(found, dict):
        raise ZooError(f"expected a table in {path}; got {str(found)[:60]}; remove it")
    return found


def _summary(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    if not path.exists():
        return []
    try:
        frame = pd.read_csv(path)
        numbers = ("mean", "sd", "lower", "upper")
        return [{"variable": str(row["variable"]), **{k: float(row[k]) for k in numbers}} for row in frame.to_dict("records")]
    except (ValueError, KeyError, OSError) as error:
        text = " ".join(str(error).split())[:100]
        raise ZooError(f"expected a summary in {path}; got a file that can't be read ({text}); remove it") from None
