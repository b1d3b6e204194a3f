"""The record of a run on disk, as plain data for reports and lists."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from experiments.comparison.terminal.layout import flat
from experiments.fits.metrics import read_metrics
from experiments.reporting.shapes import TableShape, UnitsShape
from experiments.runtime.files import digest, whole
from experiments.runtime.sealed import check_inside, check_seal, seal, sealed_bytes
from experiments.runtime.toml import read_toml
from zoo.errors import ZooError

#: How a run may stand. ``unfinished``: under way, killed, or interrupted; it can be resumed. ``damaged``: it can't be read.
STATES = ("done", "failed", "unfinished", "damaged")
#: Rows of metrics.jsonl that a record holds, about: a page draws fewer points.
MOST = 20_000
#: What a run leaves behind, beside figures, checkpoints and its page: status.json holds the files' checksums.
RESULTS = (
    "spec.toml", "data.safetensors", "comparison.json", "comparison.csv", "metrics.jsonl", "posterior.nc", "units.json",
    "summary.csv")
#: All that is read or written in a run's directory: nothing of it may lead out. Trackers of others may leave links beside it.
OURS = (
    *RESULTS, "status.json", "figures", "checkpoint", "tensorboard", "report.html", ".metrics.json", ".lock", "grid.json")


@dataclass(frozen=True)
class Record:
    """The content of a run directory.

    Attributes:
        path: the directory.
        state: one of :data:`STATES`.
        error: of a failed run, what went wrong, of a damaged one, why it can't be read; in one line.
        spec: spec.toml: what was asked for, and under ``record`` with what it was run (checksum of the data, versions, commit);
            empty in a list's.
        comparison: comparison.json, as ``--json`` prints it; ``None`` where the run has not come to it.
        metrics: the rows of metrics.jsonl, of very many about 20,000.
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


@dataclass(frozen=True)
class Status:
    """How a run stands: its state, its error where it failed, and the checksums of what it left behind by file, where done."""

    state: str = "unfinished"
    error: str = ""
    files: dict[str, str] = field(default_factory=dict)


def status_of(path: Path) -> Status:
    """Return how the run in ``path`` stands.

    Raises:
        ZooError: status.json was cut short or altered.
    """
    file = path / "status.json"
    try:
        body = json.loads(file.read_bytes())
        earlier = body.keys() == {"state", "error"}  # of a run before there were checksums
        same = earlier or body.pop("checksum") == _checksum(body)
        state, error, files = body["state"], body["error"], body.get("files", {})
        if same and state in ("done", "failed") and isinstance(error, str) and isinstance(files, dict):
            return Status(state, error, files)
    except FileNotFoundError:
        return Status()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ZooError(f"expected {file} as the run wrote it; got one that was changed; remove it, and 'zoo resume {path}'")


def state_of(path: Path) -> str:
    """Return how the run in ``path`` stands, see :data:`STATES`."""
    try:
        return status_of(path).state
    except ZooError:
        return "damaged"


def read(path: Path) -> Record:
    """Read what a run directory holds, as plain data, for reports. What is not there yet is empty.

    Raises:
        ZooError: a file in it that can't be read, or was changed since the run was done; a link in it.
    """
    found = glance(path)
    seals, folder = status_of(path).files, path / "figures"
    figures = {file.stem: file for file in sorted(folder.glob("*.svg"))}
    for name in ("metrics.jsonl", *(name for name in seals if name.startswith("figures/"))):
        check_seal(path, name, seals)
    units = _checked(path, "units.json", UnitsShape, "summaries over units", seals) or {"units": []}
    metrics, summary = read_metrics(path / "metrics.jsonl", MOST), _summary(path, seals)
    return replace(
        found, spec=read_toml(path / "spec.toml"), metrics=metrics, summary=summary, units=units["units"], figures=figures)


def glance(path: Path) -> Record:
    """Read how a run stands and its table, for lists: the rest of it may be large, and its spec takes as long as its table.

    Raises:
        ZooError: as of :func:`read`.
    """
    check_inside(path, OURS)
    status = status_of(path)
    if sealed_bytes(path, "spec.toml", status.files) is None:
        raise ZooError(f"expected {path / 'spec.toml'}; got none; check the path")
    if "spec.toml" not in status.files:
        read_toml(path / "spec.toml")
    return Record(path, status.state, {}, status.error, read_comparison(path, status.files))


def read_each(paths: Iterable[Path], reader: Callable[[Path], Record] = read) -> list[Record]:
    """Read several runs by ``reader``; those that can't be read are ``damaged``, and do not hide the others."""
    return [_or_damaged(path, reader) for path in paths]


def _or_damaged(path: Path, reader: Callable[[Path], Record]) -> Record:
    try:
        return reader(path)
    except ZooError as error:
        return Record(path, "damaged", {}, " ".join(str(error).split()))


def overview(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return a row for each run and guide: the run, how it stands, and the columns of a comparison's table."""
    rows: list[dict[str, Any]] = []
    for record in records:
        head = {"run": record.name, "state": record.state}
        if record.comparison is None:
            rows.append({**head, "error": record.error})
            continue
        units = record.comparison["units"]
        rows += [{**head, "units": units, **flat(row, units)} for row in record.comparison["guides"]]
    return rows


def settle(path: Path, state: str, error: str = "") -> None:
    """Write down how the run in ``path`` ended. That it failed for want of space is not worth another error."""
    try:
        pictures = [f"figures/{file.name}" for file in sorted((path / "figures").glob("*"))]
        files = seal(path, [*RESULTS, *pictures]) if state == "done" else {}
        body = {"state": state, "error": " ".join(error.split())[:2000], "files": files}
        whole(path / "status.json", json.dumps({**body, "checksum": _checksum(body)}, ensure_ascii=False, indent=1))
    except ZooError:
        if state == "done":
            raise


def _checksum(body: dict[str, Any]) -> str:
    return digest(json.dumps(body, sort_keys=True).encode())


def find_runs(path: Path) -> list[Path]:
    """Return the run directories in ``path``: itself, or those below it that hold a spec.toml, oldest first.

    Links to directories are passed over: what they lead to is elsewhere.
    """
    if (path / "spec.toml").exists():
        return [path]
    found = [
        file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/spec.toml")
        if not any(folder.is_symlink() for folder in (file.parent, file.parent.parent) if folder != path)]
    return sorted(found, key=lambda p: (os.lstat(p / "spec.toml").st_mtime, p))


def read_comparison(path: Path, seals: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the table of the run in ``path``, as :meth:`Comparison.to_dict` made it; ``None`` where there is none.

    Raises:
        ZooError: if the file can't be read, was changed, or lacks what a table has.
    """
    return _checked(path, "comparison.json", TableShape, "a comparison's table", seals)


def _checked(
    path: Path, name: str, shape: type[BaseModel], what: str, seals: Mapping[str, str],
) -> dict[str, Any] | None:
    """Return what a JSON file holds, if it is of a ``shape``; ``None`` where there is no file."""
    content = sealed_bytes(path, name, seals)
    if content is None:
        return None
    try:
        shape.model_validate(found := table_of(content, path / name))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ZooError(f"expected {what} in {path / name}; got {key}: {first['msg'].lower()}; remove it") from None
    return found


def table_of(content: bytes, path: Path) -> dict[str, Any]:
    """Return the table that JSON ``content``, of the file ``path``, holds.

    Raises:
        ZooError: if it can't be read, or holds something else.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ZooError(f"expected {path} as JSON; got a file that can't be read ({type(error).__name__}); remove it") from None
    if not isinstance(found, dict):
        raise ZooError(f"expected a table in {path}; got {str(found)[:60]}; remove it")
    return found


def _summary(path: Path, seals: Mapping[str, str]) -> list[dict[str, Any]]:
    import pandas as pd

    content = sealed_bytes(path, "summary.csv", seals)
    if content is None:
        return []
    try:
        frame = pd.read_csv(io.BytesIO(content))
        numbers = ("mean", "sd", "lower", "upper")
        return [{"variable": str(row["variable"]), **{k: float(row[k]) for k in numbers}} for row in frame.to_dict("records")]
    except (ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:100]
        raise ZooError(
            f"expected a summary in {path / 'summary.csv'}; got a file that can't be read ({text}); remove it") from None
