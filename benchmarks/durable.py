"""What it costs that runs survive, and how long their report takes."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import experiments
import zoo
from experiments.journal import INTERVAL, Journal
from experiments.record import find_runs, read
from experiments.report import page
from experiments.trackers import Metrics

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
    """Time a VAE's fit to the digits with and without journal and metrics, alternately, at the default interval."""
    x = zoo.dataset("digits", "images", binarise="static").x

    def seconds(folder: Path | None) -> float:
        given: dict[str, Any] = {} if folder is None else {
            "journal": Journal(folder / "checkpoint"), "callbacks": [Metrics(folder / "metrics.jsonl")]}
        begun = time.perf_counter()
        experiments.fit(zoo.build("vae", x), "mean_field:encoder", x, steps=STEPS, progress=False, **given)
        return time.perf_counter() - begun

    plain, kept = [], []
    for _ in range(REPEATS):
        plain.append(seconds(None))
        with tempfile.TemporaryDirectory() as folder:
            kept.append(seconds(Path(folder)))
    ratios = [with_it / without for without, with_it in zip(plain, kept, strict=True)]
    return {"steps": STEPS, "interval": INTERVAL, "seconds_without": plain, "seconds_with": kept, "ratios": ratios,
            "cost": statistics.median(ratios) - 1}


def report() -> dict[str, Any]:
    """Time the page of a grid of twelve runs: made, and opened and drawn in Chromium where there is one."""
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
