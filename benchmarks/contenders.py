"""Contenders that a fresh process can run by name, so that importing and compiling can be timed too."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

#: What a script of each contender imports first.
LIBRARIES: Mapping[str, Sequence[str]] = {
    "zoo": ("torch", "pyro", "zoo:build", "guides:build", "experiments:fit"),
    "Pyro": ("torch", "pyro", "pyro.infer", "pyro.infer.autoguide", "pyro.optim"),
    "NumPyro": ("jax", "jax.numpy", "numpyro", "numpyro.infer", "numpyro.infer.autoguide")}

#: What a contender is given: arrays by name. It makes of them what its library needs, inside the clock.
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Task:
    """The whole work of a contender: the path of a function, its arrays and its options.

    The module of the function imports only what this contender needs, so a fresh process loads no other contender's library.

    Attributes:
        path: ``module:function``.
        arrays: the data.
        options: the other arguments of the function, as plain data.
        libraries: what a script imports before the call: modules, or ``module:name`` for names that load on first use.
    """

    path: str
    arrays: Arrays = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    libraries: Sequence[str] = ()

    def __call__(self) -> Any:
        """Call the function in this process; return the result."""
        module, _, name = self.path.partition(":")
        return getattr(importlib.import_module(module), name)(self.arrays, **self.options)

    def having(self, **options: Any) -> Task:
        """Return a copy of the task with some ``options`` changed."""
        return replace(self, options={**self.options, **options})

    def cold(self) -> Cold:
        """Time a fresh process that imports, compiles and does the work once."""
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "arrays.npz"
            np.savez(data, **self.arrays)  # type: ignore[arg-type]
            plain = [json.dumps(dict(self.options)), json.dumps(list(self.libraries))]
            command = [sys.executable, "-m", "benchmarks.contenders", self.path, str(data), *plain]
            begun = time.perf_counter()
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            return Cold(float(done.stdout.splitlines()[-1]), time.perf_counter() - begun)


@dataclass(frozen=True)
class Cold:
    """Seconds of a fresh process: ``call`` is the first call, after all imports; ``process`` is the whole process."""

    call: float
    process: float


def cold_in_turn(tasks: Mapping[str, Task], repeats: int) -> dict[str, tuple[Cold, ...]]:
    """Run ``repeats`` fresh processes of each task in turn; return the times of each task, (repeats,)."""
    found: dict[str, list[Cold]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            found[name].append(task.cold())
    return {name: tuple(each) for name, each in found.items()}


def calls(found: Mapping[str, tuple[Cold, ...]]) -> dict[str, tuple[float, ...]]:
    """Return the seconds of the first calls alone."""
    return {name: tuple(cold.call for cold in each) for name, each in found.items()}


def processes(found: Mapping[str, tuple[Cold, ...]]) -> str:
    """Return a note with the median seconds of whole processes."""
    return "whole processes " + ", ".join(
        f"{name} {statistics.median(cold.process for cold in each):.3g} s" for name, each in found.items())


def main(path: str, data: str, options: str, libraries: str) -> None:
    """Run one task, in a fresh process, and print the seconds that the task took."""
    for library in json.loads(libraries):
        module, _, name = library.partition(":")
        loaded = importlib.import_module(module)
        if name:
            getattr(loaded, name)
    with np.load(data) as arrays:
        task = Task(path, dict(arrays), json.loads(options))
    begun = time.perf_counter()
    task()
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main(*sys.argv[1:])
