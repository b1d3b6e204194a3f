"""The time that commands take to start."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.results import Result, Table


def start_up() -> Result:
    """Time commands, each in a fresh process: the median and the range of the wall seconds of five runs."""
    commands = {
        "zoo --help": ["--help"], "zoo list": ["list"],
        "zoo compare gmm --data faithful": ["compare", "gmm", "--data", "faithful"]}
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for name, words in commands.items():
            seconds = []
            for _ in range(5):
                begun = time.perf_counter()
                subprocess.run(
                    [sys.executable, "-m", "experiments.cli", *words], check=True, capture_output=True,
                    env={**os.environ, "ZOO_RUNS": folder})
                seconds.append(time.perf_counter() - begun)
            table.append([name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}"])
    return Result(tables=[Table("Start-up", ["command", "seconds", "range"], table)])
