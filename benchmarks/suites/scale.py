"""The growth of cost with rows on disk, with each size of the work and with processes, and the time to start."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import experiments
import guides
import zoo
from benchmarks.race import in_turn
from benchmarks.results import Result, Table
from benchmarks.suites.mixtures import mixture

#: Rows of the tables on disk, their columns, and the components of the mixture that is fitted.
ROWS, COLUMNS, COMPONENTS = (100_000, 1_000_000, 10_000_000), 8, 10
#: Iterations of EM on each table, and steps of svi, of which the median counts; the first is not among them. For a fifth of a
#: second after a model is built, threads of scikit-learn's k-means still wait for work, and take a part of each core.
ITERATIONS, STEPS = {100_000: 200, 1_000_000: 40, 10_000_000: 12}, 400
#: Runs of which the median counts.
REPEATS = 3

CHILD = """
import json, resource, statistics, sys
import experiments, zoo
path, method, steps, components = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
x = zoo.mapped(path)
model = zoo.build("gmm", x, components=components)
guide = "exact" if method == "em" else "categorical:encoder"
done = experiments.fit(model, guide, x, method=method, steps=steps, progress=False)
at = [seconds for _, _, seconds in done.history]
each = statistics.median(after - before for before, after in zip(at, at[1:]))
print(json.dumps([each, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6]))
"""


def rows() -> Result:
    """Time EM (ten components), and svi on minibatches of 256 rows, on a float32 table of eight columns that stays on disk
    as an `.npy` file (3.2, 32 and 320 MB), each in a fresh process. The table has the seconds of an iteration of EM per
    row and of a step of svi (medians over 199, 39 and 11 iterations and 399 steps), and the peak of resident memory, which
    includes imports and pages of the file.
    """
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for count in ROWS:
            path = Path(folder) / f"{count}.npy"
            _write(path, count)
            for method in ("em", "svi"):
                given = [str(path), method, str(ITERATIONS[count] if method == "em" else STEPS), str(COMPONENTS)]
                done = subprocess.run([sys.executable, "-c", CHILD, *given], capture_output=True, text=True, check=True)
                each, peak = json.loads(done.stdout)
                cost = f"{1e9 * each / count:.0f} ns a row" if method == "em" else f"{1e3 * each:.2f} ms a step"
                table.append([f"{count:,}", method, cost, f"{peak:,.0f} MB"])
    return Result(tables=[Table("Rows on disk, d = 8, float32", ["rows", "method", "cost", "peak memory"], table)])


def _write(path: Path, count: int, block: int = 100_000) -> None:
    """Write rows of a mixture, a block at a time."""
    generator = np.random.default_rng(0)
    means = 1.5 * generator.normal(size=(COMPONENTS, COLUMNS))
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, COLUMNS))
    for start in range(0, count, block):
        size = min(block, count - start)
        file[start : start + size] = means[generator.integers(COMPONENTS, size=size)] + generator.normal(size=(size, COLUMNS))
    file.flush()


def growth() -> Result:
    """Time one iteration of EM for growing numbers of rows, columns and components, and one evaluation of an ELBO for growing
    numbers of draws. The exponent is that of a power law fitted to the larger half of the sizes; the last column has the
    exponent of the arithmetic, in which EM's products take n K (1 + d + d (d + 1) / 2) multiplications, twice.
    """
    cases: dict[str, tuple[Sequence[int], Callable[[int], Callable[[], Any]], str]] = {
        "EM: rows n (d = 8, K = 8)": ([20_000, 40_000, 80_000, 160_000, 320_000], lambda n: _iteration(n, 8, 8), "1"),
        "EM: columns d (n = 20,000, K = 8)": ([4, 8, 16, 32, 64], lambda d: _iteration(20_000, d, 8), "2"),
        "EM: components K (n = 50,000, d = 8)": ([8, 16, 32, 64, 128], lambda k: _iteration(50_000, 8, k), "1"),
        "log weights: draws (eight_schools)": ([2_000, 8_000, 32_000, 128_000, 512_000], _weights, "1")}
    table = []
    for name, (sizes, make, arithmetic) in cases.items():
        seconds = [_median(make(size)) for size in sizes]
        half = len(sizes) // 2
        slope = np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0]
        spent = ", ".join(f"{size:,}: {1e3 * value:.3g} ms" for size, value in zip(sizes, seconds, strict=True))
        table.append([name, spent, f"{slope:.2f}", arithmetic])
    return Result(tables=[Table("Growth", ["what grows", "median times", "exponent", "of the arithmetic"], table)])


def _iteration(count: int, columns: int, components: int) -> Callable[[], Any]:
    """Return an E-step and an M-step on rows of a mixture."""
    from experiments.inference.em.moments import expectation

    x = mixture(count, columns, components)
    work = expectation(zoo.build("gmm", x, components=components), x)

    def once() -> None:
        work.expect()
        work.maximise()

    return once


def _weights(draws: int) -> Callable[[], Any]:
    x = zoo.dataset("eight_schools").x
    model = zoo.build("eight_schools", x)
    guide = guides.build("mean_field", model, x)
    return lambda: experiments.log_weights(model, guide, x, draws)


def _median(work: Callable[[], Any]) -> float:
    """Return the median seconds of a run; ``in_turn`` first rests, so that threads left from building the model sleep."""
    return statistics.median(in_turn({"zoo": work}, 3)["zoo"])


SHARED = """
import json, os, sys, time
import torch.distributed as group
import experiments, zoo
count = int(sys.argv[2])
if count > 1:
    group.init_process_group("gloo")
x = zoo.mapped(sys.argv[1])
model = zoo.build("gmm", x, components=int(sys.argv[3]))
seconds = []
for steps in (1, 6):
    begun = time.perf_counter()
    done = experiments.fit(model, "exact", x, steps=steps, shard=count > 1, progress=False)
    seconds.append(time.perf_counter() - begun)
if os.environ.get("RANK", "0") == "0":
    print(json.dumps([(seconds[1] - seconds[0]) / 5, done.elbo]))
"""


def processes() -> Result:
    """Time an iteration of EM on 2,000,000 rows on disk, by one process and by two processes that share the rows (`torchrun`,
    gloo), each process with one thread, in turn.
    """
    alone: list[float] = []
    shared: list[float] = []
    elbos: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path, script = Path(folder) / "rows.npy", Path(folder) / "share.py"
        _write(path, 2_000_000)
        script.write_text(SHARED)
        for _ in range(REPEATS):
            for count, found in ((1, alone), (2, shared)):
                start = [sys.executable] if count == 1 else [
                    sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
                done = subprocess.run(
                    [*start, str(script), str(path), str(count), str(COMPONENTS)], capture_output=True, text=True, check=True,
                    env={**os.environ, "OMP_NUM_THREADS": "1"})
                each, elbo = json.loads(done.stdout.strip().splitlines()[-1])
                found.append(each)
                elbos.append(elbo)
    apart = (max(elbos) - min(elbos)) / abs(elbos[0])
    assert apart < 1e-10, f"expected one answer; got {elbos}"
    ratio = statistics.median(a / b for a, b in zip(alone, shared, strict=True))
    row = [f"{statistics.median(alone):.3f} s", f"{statistics.median(shared):.3f} s", f"{ratio:.2f}", f"{apart:.1e}"]
    return Result(tables=[Table(
        "Two processes, n = 2,000,000, d = 8, K = 10", ["one", "two", "times as fast", "ELBOs apart, relative"], [row])])
