"""Run benchmarks by name, or all of them, and print what they measured as JSON."""

from __future__ import annotations

import json
import sys

from benchmarks.registry import BENCHMARKS
from zoo.registry import load, lookup


def main(names: list[str]) -> None:
    """Run the benchmarks called ``names``; none: all."""
    for name in names or list(BENCHMARKS):
        measure = load(lookup(BENCHMARKS, name, "benchmark", "benchmarks/registry.py"))
        print(json.dumps({"benchmark": name, **measure()}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
