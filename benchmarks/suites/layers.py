"""The parts of the code that a step of svi spends its time in."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import experiments
import guides
import zoo
from benchmarks.results import Result, Table

#: Steps of a run, and of the one before, which imports and traces.
STEPS, FIRST = 1_500, 50
#: What the files of torch.fx's graphs are called in stacks, with a number each.
GRAPH = "<eval_with_key>"
#: Seconds between samples.
INTERVAL = 0.001
LAYERS = ("operations", "program trace", "density", "guide", "backward", "optimiser", "bookkeeping")
#: Pyro's machinery and ours around it, as against arithmetic: files by a part of their path.
TRACING = (
    "/pyro/poutine/", "/pyro/primitives", "/pyro/nn/", "/pyro/infer/", "/zoo/program", "/zoo/latents", "/zoo/vectorise",
    "/zoo/params", "/torch/_functorch/", "/contextlib")


@dataclass(frozen=True)
class Case:
    """A registered model and a guide whose svi steps are sampled, with the data and the options of the fit."""

    model: str
    guide: str
    data: tuple[str, str | None, str | None]
    fit: tuple[tuple[str, int], ...] = ()


CASES = (
    Case("vae", "mean_field:encoder", ("digits", "images", "threshold"), (("batch_size", 256),)),
    Case("eight_schools", "mean_field", ("eight_schools", None, None)),
    Case("gmm", "categorical:encoder", ("faithful", None, None)))


def layers() -> Result:
    """Sample every millisecond, from the stack of Python's frames, which part of the code a step of svi is in; show
    milliseconds per step and shares.

    Each pair of model and guide has two runs: in the first run Python runs the program, in the second run the operations of the
    program are recorded.

    *Operations*: the recorded operations of program, guide and gradients. *Program trace*: running the Pyro program, its
    messengers, packing and vmap, without the arithmetic of its densities. *Density*: distributions, networks and
    log-probabilities of the model. *Guide*: φ from x, draws and log q. *Backward*: gradients. *Optimiser*: Adam and the
    schedule. *Bookkeeping*: everything else in `experiments.fit`. A signal that arrives while a kernel runs is served when the
    kernel returns, so the time of a kernel counts for the line that called the kernel.
    """
    rows = [_measure(case, recorded) for case in CASES for recorded in (False, True)]
    return Result(tables=[Table("ms a step, and share", ("case", "ms a step", *LAYERS), rows)])


def _measure(case: Case, recorded: bool) -> list[str]:
    name, kind, binarise = case.data
    x: Any = zoo.dataset(name, kind, binarise=binarise).x
    model: Any = zoo.build(case.model, x)
    model.pure = recorded
    guide = guides.build(case.guide, model, x)
    options: dict[str, Any] = {"method": "svi", "progress": False, **dict(case.fit)}
    experiments.fit(model, guide, x, steps=FIRST, **options)
    begun = time.perf_counter()
    with sampled() as counts:
        experiments.fit(model, guide, x, steps=STEPS, **options)
    step = 1e3 * (time.perf_counter() - begun) / STEPS
    total = max(1, sum(counts.values()))
    shares = {layer: counts[layer] / total for layer in LAYERS}
    how = "operations recorded" if recorded else "by Python"
    return [f"{case.model}, {case.guide}, {how}", f"{step:.2f}", *(f"{step * s:.2f} ({100 * s:.0f}%)" for s in shares.values())]


@contextmanager
def sampled() -> Iterator[Counter[str]]:
    """Count, at equal intervals of time, the layer of :data:`LAYERS` that the stack is in."""
    counts: Counter[str] = Counter()

    def sample(_: int, frame: FrameType | None) -> None:
        counts[layer_of(frame)] += 1

    before = signal.signal(signal.SIGALRM, sample)
    signal.setitimer(signal.ITIMER_REAL, INTERVAL, INTERVAL)
    try:
        yield counts
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def layer_of(frame: FrameType | None) -> str:
    """Return the layer of :data:`LAYERS` that a stack is in."""
    stack = []
    while frame is not None:
        stack.append((frame.f_code.co_filename, frame.f_code.co_name))
        frame = frame.f_back
    return layer(stack)


def layer(stack: list[tuple[str, str]]) -> str:
    """Return the layer of a stack of (file, function), innermost first.

    >>> layer([(GRAPH + ".7", "forward"), ("/experiments/inference/svi/ascent.py", "step")])
    'operations'
    >>> layer([("/torch/nn/functional.py", "linear"), ("/zoo/models/vae.py", "forward"), ("/zoo/model.py", "log_terms")])
    'density'
    """
    if any(file.startswith(GRAPH) for file, _ in stack):
        return "operations"
    if any(name in ("backward", "grad") and "/torch/" in file for file, name in stack):
        return "backward"
    if any("/torch/optim/" in file for file, _ in stack):
        return "optimiser"
    if any("/guides/" in file or name == "scored" for file, name in stack):
        return "guide"
    inside = next((i for i, (file, name) in enumerate(stack) if file.endswith("zoo/model.py") and "log" in name), None)
    if inside is None:
        return "bookkeeping"
    return "program trace" if _tracing(stack[: inside + 1]) else "density"


def _tracing(stack: list[tuple[str, str]]) -> bool:
    """Whether the innermost frame of a known kind belongs to Pyro's machinery, not to a distribution, network or model."""
    for file, _ in stack:
        if any(part in file for part in TRACING):
            return True
        if any(part in file for part in ("distributions/", "/torch/nn/", "/zoo/")):
            return file.endswith("zoo/model.py")
    return True
