"""The runner of a benchmark: it measures in a separate process, then saves and shows the result."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.machine import describe, environment, limit_cores
from benchmarks.registry import BENCHMARKS
from zoo.registry import load


def run(name: str, out: Path, repeats: int | None, threads: int) -> int:
    """Run a benchmark in a fresh process and print the result; return 0, or 1 if the benchmark failed.

    In a fresh process, nothing counts that an earlier benchmark imported, compiled or left in memory, and NumPy is imported
    only after the variables that slow it down have been removed from the environment.

    Args:
        name: the name of the benchmark.
        out: a directory for ``NAME.json`` and, if there are curves, ``NAME.png``.
        repeats: the number of runs of each contender; ``None``: the benchmark's own number.
        threads: the number of cores.
    """
    path = out / f"{name}.json"
    number = BENCHMARKS[name].repeats if repeats is None else repeats
    command = [sys.executable, "-m", "benchmarks.runner", name, str(path), str(number), str(threads)]
    code = subprocess.run(command, env=environment(os.environ), check=False).returncode
    if code:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        print(f"error: benchmark '{name}' failed with {how}", file=sys.stderr)
        return 1
    from benchmarks.results import Result
    from benchmarks.show import draw, show

    found = Result.read(path)
    show(found)
    if found.curves:
        draw(found, path.with_suffix(".png"))
    return 0


def main(name: str, path: str, repeats: str, threads: str) -> None:
    """Measure, in this process, and write the result to ``path``."""
    used = limit_cores(int(threads))
    from benchmarks.results import result_of

    entry = BENCHMARKS[name]
    measure = load(entry.path)
    found = result_of(measure(repeats=int(repeats)) if entry.repeats else measure())
    about = inspect.getdoc(measure) or entry.summary
    replace(found, name=name, about=about, machine=describe(used)).write(Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
