"""Contenders that a fresh process can run by name, so that importing and compiling can be timed too."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

#: What a contender is given: arrays by name. It makes of them what its library needs, inside the clock.
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """A function of arrays and options, by its path, that does all of a contender's work.

    The module it lies in imports no more than that contender needs: a fresh process that runs it pays for no other.

    Attributes:
        path: ``module:function``.
        arrays: its data.
        options: its other arguments, plain data.
    """

    path: str
    arrays: Arrays = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        """Do the work in this process; return what the function does."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)(self.arrays, **self.options)

    def having(self, **options: Any) -> Task:
        """Return the same with some ``options`` changed."""
        return replace(self, options={**self.options, **options})

    def cold(self) -> float:
        """Return the wall time of a fresh process, in seconds, that imports, compiles and does the work once."""
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "arrays.npz"
            np.savez(data, **self.arrays)  # type: ignore[arg-type]
            command = [sys.executable, "-m", "benchmarks.contenders", self.path, str(data), json.dumps(dict(self.options))]
            begun = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - begun


def cold_in_turn(tasks: Mapping[str, Task], repeats: int) -> dict[str, float | tuple[float, ...]]:
    """Return the seconds of ``repeats`` fresh processes of each task, (repeats,) each, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            seconds[name].append(task.cold())
    return {name: tuple(each) for name, each in seconds.items()}


def main(path: str, data: str, options: str) -> None:
    """Do one task: what a fresh process runs."""
    with np.load(data) as arrays:
        Task(path, dict(arrays), json.loads(options))()


if __name__ == "__main__":
    main(*sys.argv[1:])
