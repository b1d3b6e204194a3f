"""The machine that a benchmark runs on: its description, and settings that give each run the same share of its cores."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

#: Distributions whose versions a result names.
VERSIONS = ("torch", "pyro-ppl", "numpyro", "jax", "scikit-learn", "numpy", "zuko")

#: OpenBLAS reads these as it loads. Where they are set, to the kernels or caches of an older processor, NumPy and scikit-learn
#: are slowed and torch, which brings a library of its own, is not: the comparison would flatter us.
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def environment(before: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a benchmark: those of ``before`` without the ones in :data:`UNSET`.

    >>> environment({"HOME": "/", "OPENBLAS_CORETYPE": "Haswell"})
    {'HOME': '/'}
    """
    return {name: value for name, value in before.items() if name not in UNSET}


def limit_cores(threads: int) -> int:
    """Confine this process and its child processes to ``threads`` cores; return the number of cores that they may use.

    Torch, OpenBLAS and XLA each start as many threads as there are cores to run on. Where the system can't confine processes,
    all three libraries use all cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    return len(os.sched_getaffinity(0))


def describe(threads: int) -> dict[str, str | int]:
    """Return the description of the machine in a result: processor, cores, threads used, memory, versions and date."""
    return {
        "processor": _processor(), "cores": os.cpu_count() or 1, "threads": threads, "memory": _memory(),
        "system": platform.system(), "python": platform.python_version(),
        **{name: version for name in VERSIONS if (version := _version(name))}, "date": datetime.date.today().isoformat()}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """Return the name of the processor that the system reports."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _memory() -> str:
    if not hasattr(os, "sysconf"):
        return "unknown"
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
