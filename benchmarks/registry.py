"""The benchmarks there are."""

from __future__ import annotations

from collections.abc import Mapping

#: Where each is: a function without arguments that returns what it measured as plain data.
BENCHMARKS: Mapping[str, str] = {
    "em-gmm": "benchmarks.mixtures:same_iterations",
    "checkpoints": "benchmarks.durable:checkpoints",
    "report": "benchmarks.durable:report",
}
