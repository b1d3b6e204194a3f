"""The record of a run on disk, as plain data for reports and lists."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from experiments.fits.metrics import read_metrics
from experiments.log_evidence.registry import ESTIMATORS
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
        figures: the figures' SVG files by name.
    """

    path: Path
    state: str
    spec: dict[str, Any]
    error: str = ""
    comparison: dict[str, Any] | None = None
    metrics: list[dict[str, Any]] = field(default_factory=list, repr=False)
    summary: list[dict[str, Any]] = field(default_factory=list, repr=False)
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
    figures = {file.stem: file for file in sorted((path / "figures").glob("*.svg"))}
    return Record(path, state, spec, error, comparison, read_metrics(path / "metrics.jsonl"), summary, figures)


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


class _Shape(BaseModel):
    """What is relied on of a file that somebody may have altered; other keys are let be."""

    model_config = ConfigDict(extra="allow", frozen=True)


class _Number(_Shape):
    value: float | None
    se: float | None


class _Gap(_Number):
    lower: float | None
    upper: float | None


def _kind(name: str) -> str:
    if name not in ESTIMATORS:
        raise ValueError(f"expected one of {', '.join(ESTIMATORS)}")
    return name


class _Evidence(_Gap):
    kind: Annotated[str, AfterValidator(_kind)]
    guide: str | None = None
    method: str | None = None
    remark: str = ""


class _Fitted(_Shape):
    method: str
    guide: str
    steps: int
    seconds: float
    converged: bool
    stopped: str


class _Row(_Fitted):
    elbo: _Number
    kl_gap: _Gap
    approximation_gap: _Gap | None
    amortisation_gap: _Gap | None
    reconstruction: _Number
    kl_prior: _Number
    active: int | None
    khat: float | None
    ess: float | None
    draws: int
    parameters: int
    density: bool = True
    log_evidence: _Evidence
    remark: str = ""


class _Table(_Shape):
    model: str
    data: str
    units: int = Field(ge=1)
    units_in_all: int
    holdout: float
    seed: int
    log_evidence: _Evidence | None
    own_theta: bool
    simulated: bool
    theta: _Fitted | None
    guides: list[_Row] = Field(min_length=1)


def read_comparison(path: Path) -> dict[str, Any] | None:
    """Return a run's table as plain data, as :meth:`Comparison.to_dict` made it; ``None`` where there is no file.

    Raises:
        ZooError: if the file can't be read, or lacks what a table has.
    """
    found = read_json(path)
    if found is None:
        return None
    try:
        _Table.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ZooError(f"expected a comparison's table in {path}; got {key}: {first['msg'].lower()}; remove it") from None
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
