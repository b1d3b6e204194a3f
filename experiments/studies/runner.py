"""Running studies, side by side, and leaving behind what they found: a figure and a JSON file each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from experiments.studies.registry import STUDIES
from experiments.studies.study import Check, run
from zoo.errors import ZooError


@dataclass(frozen=True)
class Report:
    """How a study went: its checks, or in one line why it failed; seconds of wall time; the files it wrote."""

    name: str
    checks: tuple[Check, ...]
    seconds: float
    files: tuple[str, ...] = ()
    error: str = ""

    @property
    def holds(self) -> bool:
        return not self.error and all(check.holds for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON."""
        return {
            "study": self.name, "claim": STUDIES[self.name].claim, "holds": self.holds, "seconds": round(self.seconds, 1),
            "checks": [vars(check) for check in self.checks], "files": list(self.files), "error": self.error}


def perform(name: str, out: Path | None, quick: bool, seed: int) -> Report:
    """Run one study and write NAME.json, NAME.png and NAME.svg to ``out``. What goes wrong is in the report."""
    begun = time.perf_counter()
    try:
        found = run(name, quick=quick, seed=seed)
        seconds = time.perf_counter() - begun
        files = () if out is None else _write(name, out, found, {"quick": quick, "seed": seed, "seconds": round(seconds, 1)})
        return Report(name, tuple(found.checks()), seconds, files)
    except Exception as error:  # one study that fails must not take the others with it
        first = (str(error).strip().splitlines() or [""])[0]
        text = first if isinstance(error, ZooError) else f"{type(error).__name__}: {first}"
        return Report(name, (), time.perf_counter() - begun, error=text)


def perform_all(names: Sequence[str], out: Path | None, quick: bool = False, seed: int = 0, jobs: int = 0) -> Iterator[Report]:
    """Run studies in ``jobs`` processes (0: one a core, as far as there are studies), and yield their reports in order."""
    jobs = min(len(names), jobs or os.cpu_count() or 1)
    if jobs == 1:
        yield from (perform(name, out, quick, seed) for name in names)
        return
    longest_first = sorted(names, key=lambda name: -STUDIES[name].seconds)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:  # a fork may not use threads torch has started
        running = {name: pool.submit(perform, name, out, quick, seed) for name in longest_first}
        for name in names:
            yield running[name].result()


def _write(name: str, out: Path, found: Any, facts: dict[str, Any]) -> tuple[str, ...]:
    import matplotlib as mpl

    from experiments.reporting.figures import save
    from experiments.runtime.files import whole

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.json"
    whole(path, json.dumps({"study": name, "claim": STUDIES[name].claim, **facts, **found.to_dict()}, allow_nan=False))
    with mpl.rc_context({"backend": "agg"}):
        figures = save(found.draw(), out / name)
    return tuple(str(part) for part in (path, *figures))
