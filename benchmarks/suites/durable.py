"""The cost of checkpoints and metrics in a fit, and the time that a report takes."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor

import experiments
import zoo
from experiments.fits.callbacks import Watch
from experiments.fits.journal import INTERVAL, Journal
from experiments.fits.trackers import Metrics
from experiments.reporting.record import find_runs, read
from experiments.reporting.report import page

#: Runs of each kind, in turn; steps of each, so that it lasts longer than the interval.
REPEATS, STEPS = 3, 12_000

GRID = """
command = "fit"
model = "ppca"
data = "wine"
guides = ["mean_field", "full_rank"]
seeds = [0, 1]
standardise = true
[options]
latent = [1, 2, 4]
"""


def checkpoints() -> dict[str, Any]:
    """Measure the share of time that a VAE's fit to the digits spends on its journal and metrics, at the default interval.

    The times of two whole runs differ by more than this share from noise alone. So each run measures the time of its own
    bookkeeping after each step, and runs with and without journal and metrics alternate.
    """
    x = zoo.dataset("digits", "images", binarise="static").tensor
    plain: list[float] = []
    kept: list[float] = []
    seconds: list[float] = []
    for _ in range(REPEATS):
        plain.append(_share(x, None)[0])
        with tempfile.TemporaryDirectory() as folder:
            share, whole = _share(x, Path(folder))
            kept.append(share)
            seconds.append(whole)
    costs = [with_it - without for without, with_it in zip(plain, kept, strict=True)]
    return {"steps": STEPS, "interval": INTERVAL, "seconds": seconds, "share_without": plain, "share_with": kept,
            "cost": statistics.median(costs)}


def _share(x: Tensor, folder: Path | None) -> tuple[float, float]:
    """Return the share of a fit's time that bookkeeping takes, and the seconds of the whole fit."""
    given: dict[str, Any] = {} if folder is None else {
        "journal": Journal(folder / "checkpoint"), "callbacks": [Metrics(folder / "metrics.jsonl")]}
    spent, step = 0.0, Watch.step

    def timed(watch: Watch, *arguments: Any, **named: Any) -> None:
        nonlocal spent
        begun = time.perf_counter()
        step(watch, *arguments, **named)
        spent += time.perf_counter() - begun

    begun = time.perf_counter()
    with mock.patch.object(Watch, "step", timed):
        experiments.fit(zoo.build("vae", x), "mean_field:encoder", x, steps=STEPS, progress=False, **given)
    whole = time.perf_counter() - begun
    return spent / whole, whole


def report() -> dict[str, Any]:
    """Time the page of a grid of twelve runs: writing the page, and opening and drawing the page if Chromium is installed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "grid.toml").write_text(GRID)
        experiments.sweep(experiments.read_grid(folder / "grid.toml"), folder / "runs")
        made, opened, size = [], [], 0
        for _ in range(REPEATS):
            begun = time.perf_counter()
            text = page([read(path) for path in find_runs(folder / "runs")])
            made.append(time.perf_counter() - begun)
            size = len(text.encode())
            (folder / "page.html").write_text(text)
            opened.append(_open(folder / "page.html"))
    return {"runs": 12, "bytes": size, "seconds_made": made, "seconds_opened": opened}


def _open(path: Path) -> float | None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page()
        begun = time.perf_counter()
        tab.goto(path.as_uri())
        tab.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seconds = time.perf_counter() - begun
        chromium.close()
    return seconds
